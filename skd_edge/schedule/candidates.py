"""The candidates of a recipe, and which students are worth training within the budget.

Latency does not depend on weights, so each network is benchmarked with random weights first. A student that is over the
budget at every deployment is never trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from skd_bench.benchmark.latency import LatencyResult
from skd_bench.errors import UserError
from skd_bench.runtimes import uses_gpu
from skd_edge.recipe.schema import NetworkSpec, Recipe
from skd_edge.recipe.sections import Precision, Runtime

TEACHER_KEY = "teacher fp32"
LITERT_SUFFIX = ".litert"  # of the key of a .tflite file


@dataclass(frozen=True)
class Deployment:
    """How a network is deployed: the precision of its file, and the runtime.

    Attributes:
        precision: the precision of the file.
        runtime: the runtime that runs the file.
        name: unique in a recipe: "int8", or "int8 on openvino" if the recipe lists several runtimes.
    """

    precision: Precision
    runtime: Runtime
    name: str

    @property
    def file(self) -> str:
        """The key of its file among the exported files (`skd_export.exporter.make_artefacts`)."""
        return f"{self.precision}{LITERT_SUFFIX}" if self.runtime == "litert" else self.precision


def list_deployments(recipe: Recipe) -> list[Deployment]:
    """All deployments of a student: {precision} x {runtime}."""
    return [_make_deployment(recipe, p, r) for p in recipe.export.precisions for r in recipe.bench.runtime]


def why_pair_impossible(precision: str, runtime: Runtime) -> str | None:
    """Why no device can run a precision on a runtime, or no file can be written for it; else None."""
    if precision == "int8" and runtime.startswith("tensorrt"):
        return f"{runtime} runs symmetric INT8 only, and int8 is asymmetric; list int8-trt in export.precisions"
    if runtime == "litert":
        return _why_litert_impossible(precision)
    if precision == "bf16" and runtime not in ("openvino", "tensorrt", "tensorrt-rtx"):
        return f"{runtime} has no bfloat16 convolution; openvino (on a CPU with bfloat16) and tensorrt have"
    if precision == "fp8" and runtime not in ("tensorrt", "tensorrt-rtx"):
        return f"{runtime} has no FP8 convolution; tensorrt has, on a GPU from SM89 on"
    return None


def _why_litert_impossible(precision: str) -> str | None:
    from skd_export.targets.litert import LITERT_PRECISIONS, explain_missing_converter

    if precision not in LITERT_PRECISIONS:
        return f"LiteRT files are {', '.join(LITERT_PRECISIONS)}"
    reason = explain_missing_converter()
    return f"its .tflite file cannot be written: {reason}" if reason else None


def why_file_unrunnable(name: str, runtime: Runtime) -> str | None:
    """Why no device can run an exported file on a runtime, by the file's name; None if one may."""
    stem, _, ending = name.rpartition(".")
    if (ending == "tflite") != (runtime == "litert"):
        return f"{runtime} does not read .{ending} files"
    return None if runtime == "litert" else why_pair_impossible(stem, runtime)


def list_files(recipe: Recipe) -> tuple[str, ...]:
    """Keys of the files that a student's deployments need, each once; pairs that cannot be need none."""
    possible = (d for d in list_deployments(recipe) if why_pair_impossible(d.precision, d.runtime) is None)
    return tuple(dict.fromkeys(d.file for d in possible))


def teacher_deployment(recipe: Recipe) -> Deployment:
    """FP32 on the recipe's first runtime: the deployment of the teacher that relative budgets refer to."""
    return Deployment("fp32", recipe.bench.runtime[0], "fp32")


def _make_deployment(recipe: Recipe, precision: Precision, runtime: Runtime) -> Deployment:
    return Deployment(precision, runtime, f"{precision} on {runtime}" if len(recipe.bench.runtime) > 1 else precision)


@dataclass(frozen=True)
class Candidate:
    """One file that could ship: a student, trained by one cascade, at one deployment.

    Attributes:
        path: names of the networks of the cascade, from the teacher to the student.
        student: name of the student.
        deployment: precision and runtime.
        architecture: name of the recipe's first student with the same architecture; both have the same latency.
    """

    path: tuple[str, ...]
    student: str
    deployment: Deployment
    architecture: str

    @property
    def name(self) -> str:
        """Name in reports, unique in a run."""
        return f"{'>'.join(self.path)} {self.deployment.name}"

    @property
    def deployment_key(self) -> str:
        """Name of the untrained student at this deployment; equal for all cascades, and for equal architectures."""
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
    """One latency for each deployment of a student: the median over all cascades that trained it.

    Files that differ only in their weights are equally fast. Their measured latencies differ by chance, which must not
    decide between two cascades. Engines are different: each build chooses its kernels by its own timings, so an engine
    has its own latency.

    Args:
        p50_ms: measured median milliseconds of each candidate.
    """
    ms_by_key: dict[str, list[float]] = {}
    for candidate, ms in p50_ms.items():
        ms_by_key.setdefault(candidate.deployment_key, []).append(ms)
    return {
        candidate: ms if uses_gpu(candidate.deployment.runtime) else median(ms_by_key[candidate.deployment_key])
        for candidate, ms in p50_ms.items()
    }


def filter_by_budget(
    recipe: Recipe,
    p50_ms: Mapping[str, float],
    budget_ms: float | None,
    megabytes: Mapping[str, float] | None = None,
    joules: Mapping[str, float] | None = None,
) -> tuple[list[NetworkSpec], dict[str, str]]:
    """The students with at least one deployment within all limits, and why the others are never trained.

    Args:
        recipe: the recipe; its section ``choice`` has the limits other than the budget.
        p50_ms: median milliseconds with random weights, by `Candidate.deployment_key`; a deployment that cannot run is
            missing.
        budget_ms: the latency budget in milliseconds, or None.
        megabytes: sizes of the same files, where ``choice.max_megabytes`` is set.
        joules: energy per clip of the same files, where ``choice.max_joules`` is set.

    Returns:
        The students within the limits; and for each other student the reason, by name.
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
                cost, name = cost_format.format(costs[cheapest]), cheapest.removeprefix(f"{architecture} ")
                reasons[student.name] = (
                    f"never trained: {cost} ({name}, random weights) is over {limit_format.format(most)}"
                )
        if student.name not in reasons:
            within.append(student)
    return within, reasons


def find_fastest_latencies(recipe: Recipe, p50_ms: Mapping[str, float]) -> dict[str, float]:
    """Each student's milliseconds at its fastest deployment, by name; a student that cannot run anywhere is missing.

    Args:
        recipe: the recipe.
        p50_ms: see `filter_by_budget`.
    """
    found = {}
    for student in recipe.students:
        names = (
            f"{recipe.same_architecture[student.name]} {deployment.name}" for deployment in list_deployments(recipe)
        )
        if times := [p50_ms[name] for name in names if name in p50_ms]:
            found[student.name] = min(times)
    return found


def median_ms(latency: LatencyResult) -> float:
    """The median in milliseconds.

    Raises:
        UserError: No query finished, so there is no median.
    """
    if latency.p50 is None:
        raise UserError(f"{latency.name} has no latency: no query finished; raise bench.queries")
    return latency.p50.value
