"""Stage 2: measure every candidate with random weights, and propose students where the recipe says ``auto``.

Latency does not depend on the weights. A student over the budget is therefore found before it is trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from skd_bench.benchmark.latency import LatencyResult, LatencyTarget
from skd_bench.errors import UserError
from skd_edge.evaluation.local_device import MeasuredTargets
from skd_edge.models.builder import AnyNetwork
from skd_edge.models.tsm import count_parameters
from skd_edge.pipeline.context import RunContext
from skd_edge.pipeline.results import UntrainedBenchmark
from skd_edge.recipe.schema import NetworkSpec, Recipe
from skd_edge.schedule import search_space
from skd_edge.schedule.candidates import (
    TEACHER_KEY,
    filter_by_budget,
    find_fastest_latencies,
    list_deployments,
    list_files,
    median_ms,
    teacher_deployment,
    why_pair_impossible,
)


def benchmark_untrained(ctx: RunContext) -> UntrainedBenchmark:
    """Propose students where the recipe says ``auto``, measure all candidates, and drop those over the budget.

    Raises:
        UserError: No candidate is within the budget, or a network cannot be exported or measured.
    """
    recipe = _propose_networks(ctx)
    measured = measure_untrained(ctx, recipe)
    benchmark = apply_budget(recipe, measured)
    _report_budget(ctx, benchmark)
    _warn_larger_than_teacher(ctx, benchmark)
    return benchmark


def apply_budget(recipe: Recipe, measured: UntrainedMeasurements) -> UntrainedBenchmark:
    """Split the students into those within the budget and those over it; nothing is measured."""
    p50_ms = {name: median_ms(one) for name, one in measured.latency.items()}
    budget_ms = recipe.choice.budget_ms(p50_ms.get(TEACHER_KEY, math.nan))
    joules = {name: one.joules.value for name, one in measured.latency.items() if one.joules}
    students, dropped = filter_by_budget(recipe, p50_ms, budget_ms, measured.megabytes, joules)
    return UntrainedBenchmark(
        recipe, measured.latency, measured.megabytes, measured.unrunnable, budget_ms, tuple(students), dropped
    )


@dataclass(frozen=True)
class UntrainedMeasurements:
    """Latency and size of the files with random weights.

    Attributes:
        latency: by deployment key (``"small int8"``), and the teacher's under `TEACHER_KEY` where it could be exported.
        megabytes: size of each file, by the same keys.
        unrunnable: why a runtime cannot run a file, by deployment key.
    """

    latency: dict[str, LatencyResult]
    megabytes: dict[str, float]
    unrunnable: dict[str, str]


def measure_untrained(ctx: RunContext, recipe: Recipe) -> UntrainedMeasurements:
    """Measure every student in every deployment, and the teacher, with random weights.

    Raises:
        UserError: A network cannot be exported, or the device cannot measure.
    """
    with ctx.console.progress_bar("measuring candidates with random weights") as bar:
        found = _Targets()
        distinct = set(recipe.same_architecture.values())
        students = tuple(s for s in recipe.students if s.name in distinct)  # equal networks are measured once
        networks = students if recipe.teacher.logits else (recipe.teacher, *students)
        built = [(network, ctx.exporter.build_untrained_network(network)) for network in networks]
        ctx.exporter.trace_ahead([network for _, network in built])
        for number, (spec, network) in enumerate(built):
            bar.update(number, len(built))
            if spec is recipe.teacher:
                files = _export_teacher(ctx, recipe, network)
                targets = [LatencyTarget(TEACHER_KEY, path, recipe.bench.runtime[0]) for path in files.values()]
                found.latency_targets.extend(targets)
            else:
                files = ctx.exporter.export_untrained(network, f"random/{spec.name}", list_files(recipe))
            for precision, path in files.items():
                size = path.stat().st_size
                ctx.run.record_event("artefact", name=spec.name, precision=precision, weights="random", bytes=size)
            if spec is not recipe.teacher:
                _add_runnable_targets(ctx, recipe, spec, files, found)
        measured = ctx.device.measure(found.latency_targets, bar.update)
    latency = measured.latency
    _record_refusals(ctx, recipe, measured, found)
    for name, one in latency.items():
        ctx.run.record_event("measured", name=name, weights="random", p50_ms=median_ms(one))
    megabytes = {t.name: Path(t.path).stat().st_size / 1e6 for t in found.latency_targets if t.name in latency}
    return UntrainedMeasurements(latency, megabytes, found.unrunnable)


@dataclass
class _Targets:
    """Files to measure, and files that no runtime can run, while they are collected."""

    latency_targets: list[LatencyTarget] = field(default_factory=list)
    unrunnable: dict[str, str] = field(default_factory=dict)


def _add_runnable_targets(
    ctx: RunContext, recipe: Recipe, network: NetworkSpec, files: Mapping[str, Path], found: _Targets
) -> None:
    """Collect a student's file for each deployment, or the reason why the runtime cannot run it."""
    for deployment in list_deployments(recipe):
        name = f"{network.name} {deployment.name}"
        why = why_pair_impossible(deployment.precision, deployment.runtime)
        if why := why or ctx.scorer.why_unrunnable(files[deployment.file], deployment.runtime):
            found.unrunnable[name] = why
            ctx.run.record_event("cannot_run", name=name, reason=why)
            ctx.console.log(f"{name}: {why}")
        else:
            found.latency_targets.append(LatencyTarget(name, files[deployment.file], deployment.runtime))


def _record_refusals(ctx: RunContext, recipe: Recipe, measured: MeasuredTargets, found: _Targets) -> None:
    """Write into the journal what was compiled, and what the device cannot run.

    Raises:
        UserError: The budget is relative to the teacher, and the device cannot run the teacher's file.
    """
    for name in measured.built:
        ctx.run.record_event("built", name=name, weights="random")
    for name, reason in measured.refused.items():
        ctx.run.record_event("not_built", name=name, reason=reason)
        ctx.console.log(f"{name}: {reason}")
        if name != TEACHER_KEY:
            found.unrunnable[name] = reason
        elif recipe.choice.has_relative_budget:
            raise UserError(
                f"choice.budget {recipe.choice.budget!r} needs the teacher's milliseconds, but {ctx.device.name} "
                f"cannot run its file on {recipe.bench.runtime[0]}: {reason}; list another runtime first, or give the "
                "budget in milliseconds ('8 ms')"
            )


def _export_teacher(ctx: RunContext, recipe: Recipe, network: AnyNetwork) -> dict[str, Path]:
    """Export the teacher's FP32 file, which students are compared with.

    An external teacher that cannot be exported is left out, unless the budget is relative to its latency.
    """
    try:
        return ctx.exporter.export_untrained(
            network, f"random/{recipe.teacher.name}", (teacher_deployment(recipe).file,)
        )
    except UserError as error:
        if recipe.teacher.source is None:
            raise
        if recipe.choice.has_relative_budget:
            raise UserError(
                f"choice.budget {recipe.choice.budget!r} needs the teacher's milliseconds, but its file cannot be made "
                f"({error}); give the budget in milliseconds ('8 ms')"
            ) from error
        ctx.run.record_event("teacher_not_exported", reason=str(error))
        ctx.console.log(f"the teacher is not measured: {error}")
        return {}


# ------------------------------------------------------------------------------------------ students: auto
def _propose_networks(ctx: RunContext) -> Recipe:
    """The recipe with proposed students and assistants where it says ``auto``; otherwise the recipe itself.

    Raises:
        UserError: No network of the search space is within the budget; the message names the fastest.
    """
    recipe = ctx.recipe
    if not recipe.auto:
        return recipe
    students = _shortlist_students(ctx) if "students" in recipe.auto else recipe.students
    resolved = search_space.resolve_auto(recipe, students)
    ctx.run.record_event(
        "proposed", students=[s.name for s in resolved.students], assistants=[a.name for a in resolved.assistants]
    )
    ctx.console.log("proposed: " + ", ".join(n.name for n in (*resolved.assistants, *resolved.students)))
    return resolved


def _shortlist_students(ctx: RunContext) -> list[NetworkSpec]:
    recipe, grid = ctx.recipe, search_space.build_network_grid(ctx.recipe)
    grid_recipe = recipe.model_copy(update={"students": tuple(grid), "auto": ()})
    keep = recipe.space.keep
    ctx.console.log(f"auto: {len(grid)} networks are measured with random weights; {keep} of them are proposed")
    measured = measure_untrained(ctx, grid_recipe)
    p50_ms = {name: median_ms(one) for name, one in measured.latency.items()}
    times = find_fastest_latencies(grid_recipe, p50_ms)
    budget_ms = recipe.choice.budget_ms(p50_ms.get(TEACHER_KEY, math.nan))
    if not times:
        raise UserError(f"no network of the space can run: {next(iter(measured.unrunnable.values()))}")
    networks = {n.name: n for n in grid if n.name in times}
    selected = search_space.shortlist_networks(networks, times, budget_ms, recipe.space.keep)
    _record_proposals(ctx, times, budget_ms, selected)
    if not selected:
        name = min(times, key=lambda n: times[n])
        raise UserError(
            f"no network of the space is within the budget of {budget_ms:.2f} ms; the fastest, {name}, takes "
            f"{times[name]:.2f} ms on the device: raise choice.budget, or list smaller space.widths"
        )
    return selected


def _record_proposals(
    ctx: RunContext, times: Mapping[str, float], budget_ms: float | None, selected: Sequence[NetworkSpec]
) -> None:
    """Write every network of the grid into the journal: its latency, and why it is proposed or not."""
    names = {network.name for network in selected}
    for name, ms in sorted(times.items(), key=lambda item: item[1]):
        over = ms > (budget_ms or math.inf)
        reason = "kept" if name in names else "over the budget" if over else "others lie near"
        ctx.run.record_event("proposal", student=name, p50_ms=ms, reason=reason)


# ------------------------------------------------------------------------------------------ messages
def _report_budget(ctx: RunContext, benchmark: UntrainedBenchmark) -> None:
    """Print the latency of each candidate and the students over the budget.

    Raises:
        UserError: No student is within the budget.
    """
    budget_ms = benchmark.budget_ms
    for name, ms in sorted(benchmark.p50_ms.items(), key=lambda item: item[1]):
        ctx.console.log(f"{name}: {ms:.2f} ms (p50, random weights)")
    if budget_ms is not None:
        relative = f" ({benchmark.recipe.choice.budget}: its FP32 file on {benchmark.recipe.bench.runtime[0]})"
        mean = relative if benchmark.recipe.choice.has_relative_budget else ""
        ctx.console.log(f"budget: {budget_ms:.2f} ms{mean}")
    for student, reason in benchmark.dropped.items():
        ctx.run.record_event("pruned", student=student, reason=reason)
        ctx.console.log(f"{student}: {reason}")
    students = {name: ms for name, ms in benchmark.p50_ms.items() if name != TEACHER_KEY}
    if budget_ms is not None and students and all(ms > budget_ms for ms in students.values()):
        name, best = min(students.items(), key=lambda item: item[1])
        raise UserError(
            f"no candidate is within the budget of {budget_ms:.2f} ms; the fastest, {name}, takes {best:.2f} ms on "
            "the device: raise choice.budget, or add a smaller student"
        )
    if len(benchmark.dropped) == len(benchmark.recipe.students):
        reasons = "; ".join(f"{name}: {why}" for name, why in benchmark.dropped.items())
        raise UserError(f"no student can be trained: {reasons}")


def _warn_larger_than_teacher(ctx: RunContext, benchmark: UntrainedBenchmark) -> None:
    """Warn where a network has more weights than its teacher: this is possible, but rarely intended."""
    recipe = benchmark.recipe
    without_weights = {recipe.teacher.name} if recipe.teacher.logits else set()  # a file of logits has no weights
    with_weights = {name: network for name, network in recipe.networks.items() if name not in without_weights}
    size = {name: count_parameters(ctx.exporter.build_untrained_network(n)) for name, n in with_weights.items()}
    paths = ((recipe.teacher.name, *path, s.name) for s in benchmark.students for path in recipe.cascade_paths)
    # Nothing can be stated about a teacher whose weights cannot be counted.
    pairs = {(a, b) for path in paths for a, b in pairwise(path) if size.get(a) and size[b] > size[a]}
    for teacher, learner in sorted(pairs):
        ctx.console.log(
            f"warning: {learner} ({size[learner]:,} weights) is larger than {teacher} ({size[teacher]:,}), "
            "its teacher; list the larger one first, or leave it out of schedule.paths"
        )
        ctx.run.record_event("larger", learner=learner, teacher=teacher, weights=[size[learner], size[teacher]])
