"""What to train: every candidate is weighed with random weights first, and one over the budget is never trained.

Latency does not depend on weights; accuracy does. So milliseconds come first, and cost nothing but an export.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from skd_edge.recipe.schema import Network, Precision, Recipe, Runtime

TEACHER = "teacher fp32"


@dataclass(frozen=True)
class Form:
    """How a network is deployed: at a precision, on a runtime.

    Attributes:
        name: Unique in a recipe: "int8", and where the recipe lists several runtimes "int8 on openvino".
    """

    precision: Precision
    runtime: Runtime
    name: str


def forms(recipe: Recipe) -> list[Form]:
    """Every form of a student: {precision} x {runtime}."""
    return [_form(recipe, p, r) for p in recipe.export.precisions for r in recipe.bench.runtime]


def teachers_form(recipe: Recipe) -> Form:
    """The teacher's FP32 file on the first runtime: what budgets are multiples of."""
    return Form("fp32", recipe.bench.runtime[0], "fp32")


def _form(recipe: Recipe, precision: Precision, runtime: Runtime) -> Form:
    return Form(precision, runtime, f"{precision} on {runtime}" if len(recipe.bench.runtime) > 1 else precision)


@dataclass(frozen=True)
class Candidate:
    """One thing that could be deployed: a student by a path, in a form.

    Attributes:
        shape: the first student of the recipe that is the same network: both take equally long.
    """

    path: tuple[str, ...]
    student: str
    form: Form
    shape: str

    @property
    def name(self) -> str:
        """Unique in a run, as the report prints it."""
        return f"{'>'.join(self.path)} {self.form.name}"

    @property
    def untrained(self) -> str:
        """What the student's file with random weights is called in this form: cascades and equal networks share it."""
        return f"{self.shape} {self.form.name}"


def candidates(recipe: Recipe) -> list[Candidate]:
    """All candidates of a recipe: {cascade path} x {student} x {precision} x {runtime}."""
    return [
        Candidate((recipe.teacher.name, *path, student.name), student.name, form, recipe.shapes[student.name])
        for student in recipe.students
        for path in recipe.paths
        for form in forms(recipe)
    ]


def alike(p50_ms: Mapping[Candidate, float]) -> dict[Candidate, float]:
    """The milliseconds by which candidates are chosen: a student's in one form, whatever cascade taught it.

    Files that differ in their weights alone take equally long; their medians differ by chance, and chance must not
    choose between two cascades. So each gets the median over all of its kind.
    """
    by: dict[str, list[float]] = {}
    for candidate, ms in p50_ms.items():
        by.setdefault(candidate.untrained, []).append(ms)
    return {candidate: median(by[candidate.untrained]) for candidate in p50_ms}


def affordable(
    recipe: Recipe,
    p50_ms: Mapping[str, float],
    budget_ms: float | None,
    megabytes: Mapping[str, float] | None = None,
    joules: Mapping[str, float] | None = None,
) -> tuple[list[Network], dict[str, str]]:
    """Students with at least one form that may ship, and why the others are left out.

    Args:
        recipe: the recipe.
        p50_ms: median milliseconds of ``"<student> <form>"`` with random weights; of a form that cannot run, none.
        budget_ms: the budget, or None.
        megabytes: of the same files, where they are known; no more than ``choice.max_megabytes`` may be trained.
        joules: of a clip, where they were measured; no more than ``choice.max_joules`` may be trained.
    """
    keep, out, rule = [], {}, recipe.choice
    limits = (
        ("{:.2f} MB", megabytes or {}, rule.max_megabytes, "choice.max_megabytes {:g}"),
        ("{:.3g} J a clip", joules or {}, rule.max_joules, "choice.max_joules {:g}"),
        ("{:.2f} ms", p50_ms, budget_ms, "the budget of {:.2f} ms"),
    )
    for student in recipe.students:
        shape = recipe.shapes[student.name]
        names = {n: f.name for f in forms(recipe) if (n := f"{shape} {f.name}") in p50_ms}
        if not names:
            out[student.name] = "never trained: no runtime can run any of its files"
        for said, costs, most, limit in limits:
            if most is None or not names:
                continue
            least = min(names, key=lambda n: costs.get(n, 0.0))
            names = {n: name for n, name in names.items() if costs.get(n, 0.0) <= most}
            if not names:
                what = f"{said.format(costs[least])} ({least.removeprefix(shape + ' ')}, random weights)"
                out[student.name] = f"never trained: {what} is over {limit.format(most)}"
        if student.name not in out:
            keep.append(student)
    return keep, out


def fastest(recipe: Recipe, p50_ms: Mapping[str, float]) -> dict[str, float]:
    """Each student's milliseconds in its fastest form, by name; one that cannot run anywhere is left out."""
    found = {}
    for student in recipe.students:
        names = (f"{recipe.shapes[student.name]} {form.name}" for form in forms(recipe))
        if times := [p50_ms[name] for name in names if name in p50_ms]:
            found[student.name] = min(times)
    return found
