"""What to train: every candidate is weighed with random weights first, and one over the budget is never trained.

Latency does not depend on weights; accuracy does. So milliseconds come first, and cost nothing but an export.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from skd_edge.recipe import Network, Precision, Recipe

TEACHER = "teacher fp32"


@dataclass(frozen=True)
class Candidate:
    """One thing that could be deployed: a student by a path, at a precision, on a runtime."""

    path: tuple[str, ...]
    student: str
    precision: Precision
    runtime: Literal["ort", "openvino"]

    @property
    def name(self) -> str:
        """Unique in a run, as the report prints it."""
        return f"{'>'.join(self.path)} {self.precision}"


def candidates(recipe: Recipe) -> list[Candidate]:
    """All candidates of a recipe: {cascade path} x {student} x {precision}."""
    return [
        Candidate((recipe.teacher.name, *path, student.name), student.name, precision, recipe.bench.runtime)
        for student in recipe.students
        for path in recipe.paths
        for precision in recipe.export.precisions
    ]


def affordable(
    recipe: Recipe, p50_ms: Mapping[str, float], budget_ms: float | None, megabytes: Mapping[str, float] | None = None
) -> tuple[list[Network], dict[str, str]]:
    """Students with at least one precision within the budget, and why the others are left out.

    Args:
        recipe: the recipe.
        p50_ms: median milliseconds of ``"<student> <precision>"`` with random weights.
        budget_ms: the budget, or None.
        megabytes: of the same files, where they are known; no more than ``choice.max_megabytes`` may be trained.
    """
    keep, out, most = [], {}, recipe.choice.max_megabytes
    for student in recipe.students:
        times = {p: p50_ms[f"{student.name} {p}"] for p in recipe.export.precisions}
        sizes = {p: (megabytes or {}).get(f"{student.name} {p}", 0.0) for p in times}
        small = [p for p in times if most is None or sizes[p] <= most]
        best = min(small or times, key=lambda p: times[p])
        if not small:
            least = min(sizes, key=lambda p: sizes[p])
            out[student.name] = f"never trained: {sizes[least]:.2f} MB ({least}) is over choice.max_megabytes {most:g}"
        elif budget_ms is not None and times[best] > budget_ms:
            out[student.name] = (
                f"never trained: {times[best]:.2f} ms ({best}, random weights) is over the budget of {budget_ms:.2f} ms"
            )
        else:
            keep.append(student)
    return keep, out


def fastest(recipe: Recipe, p50_ms: Mapping[str, float]) -> dict[str, float]:
    """Each student's milliseconds at its fastest precision, by name."""
    return {s.name: min(p50_ms[f"{s.name} {p}"] for p in recipe.export.precisions) for s in recipe.students}
