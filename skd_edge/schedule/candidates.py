"""What to train: every candidate is weighed with random weights first, and one over the budget is never trained.

Latency does not depend on weights; accuracy does. So milliseconds come first, and cost nothing but an export.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from skd_bench.benchmark.latency import LatencyResult
from skd_bench.errors import UserError
from skd_edge.recipe.schema import NetworkSpec, Recipe
from skd_edge.recipe.sections import Precision, Runtime

TEACHER_KEY = "teacher fp32"


@dataclass(frozen=True)
class Deployment:
    """How a network is deployed: at a precision, on a runtime.

    Attributes:
        name: Unique in a recipe: "int8", and where the recipe lists several runtimes "int8 on openvino".
    """

    precision: Precision
    runtime: Runtime
    name: str


def list_deployments(recipe: Recipe) -> list[Deployment]:
    """Every form of a student: {precision} x {runtime}."""
    return [_make_deployment(recipe, p, r) for p in recipe.export.precisions for r in recipe.bench.runtime]


def teacher_deployment(recipe: Recipe) -> Deployment:
    """The teacher's FP32 file on the first runtime: what budgets are multiples of."""
    return Deployment("fp32", recipe.bench.runtime[0], "fp32")


def _make_deployment(recipe: Recipe, precision: Precision, runtime: Runtime) -> Deployment:
    return Deployment(precision, runtime, f"{precision} on {runtime}" if len(recipe.bench.runtime) > 1 else precision)


@dataclass(frozen=True)
class Candidate:
    """One thing that could be deployed: a student by a path, in a form.

    Attributes:
        architecture: the first student of the recipe that is the same network: both take equally long.
    """

    path: tuple[str, ...]
    student: str
    deployment: Deployment
    architecture: str

    @property
    def name(self) -> str:
        """Unique in a run, as the report prints it."""
        return f"{'>'.join(self.path)} {self.deployment.name}"

    @property
    def deployment_key(self) -> str:
        """What the student's file with random weights is called in this form: cascades and equal networks share it."""
        return f"{self.architecture} {self.deployment.name}"


def list_candidates(recipe: Recipe) -> list[Candidate]:
    """All candidates of a recipe: {cascade path} x {student} x {precision} x {runtime}."""
    return [
        Candidate(
            (recipe.teacher.name, *path, student.name), student.name, deployment, recipe.same_architecture[student.name]
        )
        for student in recipe.students
        for path in recipe.cascade_paths
        for deployment in list_deployments(recipe)
    ]


def pool_latency_by_deployment(p50_ms: Mapping[Candidate, float]) -> dict[Candidate, float]:
    """The milliseconds by which candidates are chosen: a student's in one form, whatever cascade taught it.

    Files that differ in their weights alone take equally long; their medians differ by chance, and chance must not
    choose between two cascades. So each gets the median over all of its kind.
    """
    ms_by_key: dict[str, list[float]] = {}
    for candidate, ms in p50_ms.items():
        ms_by_key.setdefault(candidate.deployment_key, []).append(ms)
    return {candidate: median(ms_by_key[candidate.deployment_key]) for candidate in p50_ms}


def filter_by_budget(
    recipe: Recipe,
    p50_ms: Mapping[str, float],
    budget_ms: float | None,
    megabytes: Mapping[str, float] | None = None,
    joules: Mapping[str, float] | None = None,
) -> tuple[list[NetworkSpec], dict[str, str]]:
    """Students with at least one form that may ship, and why the others are left out.

    Args:
        recipe: the recipe.
        p50_ms: median milliseconds of ``"<student> <form>"`` with random weights; of a form that cannot run, none.
        budget_ms: the budget, or None.
        megabytes: of the same files, where they are known; no more than ``choice.max_megabytes`` may be trained.
        joules: of a clip, where they were measured; no more than ``choice.max_joules`` may be trained.
    """
    within, reasons, rule = [], {}, recipe.choice
    limits = (
        ("{:.2f} MB", megabytes or {}, rule.max_megabytes, "choice.max_megabytes {:g}"),
        ("{:.3g} J a clip", joules or {}, rule.max_joules, "choice.max_joules {:g}"),
        ("{:.2f} ms", p50_ms, budget_ms, "the budget of {:.2f} ms"),
    )
    for student in recipe.students:
        architecture = recipe.same_architecture[student.name]
        names = {n: f.name for f in list_deployments(recipe) if (n := f"{architecture} {f.name}") in p50_ms}
        if not names:
            reasons[student.name] = "never trained: no runtime can run any of its files"
        for cost_format, costs, most, limit_format in limits:
            if most is None or not names:
                continue
            cheapest = min(names, key=lambda n: costs.get(n, 0.0))
            names = {n: name for n, name in names.items() if costs.get(n, 0.0) <= most}
            if not names:
                what = f"{cost_format.format(costs[cheapest])} ({cheapest.removeprefix(architecture + ' ')}, random weights)"
                reasons[student.name] = f"never trained: {what} is over {limit_format.format(most)}"
        if student.name not in reasons:
            within.append(student)
    return within, reasons


def find_fastest_latencies(recipe: Recipe, p50_ms: Mapping[str, float]) -> dict[str, float]:
    """Each student's milliseconds in its fastest form, by name; one that cannot run anywhere is left out."""
    found = {}
    for student in recipe.students:
        names = (
            f"{recipe.same_architecture[student.name]} {deployment.name}" for deployment in list_deployments(recipe)
        )
        if times := [p50_ms[name] for name in names if name in p50_ms]:
            found[student.name] = min(times)
    return found


def median_ms(latency: LatencyResult) -> float:
    """Median milliseconds.

    Raises:
        UserError: It was not measured.
    """
    if latency.p50 is None:
        raise UserError(f"{latency.name} was not measured: no query came back; raise bench.queries")
    return latency.p50.value
