"""Before anything is trained: every candidate with random weights on the scale, and students that are proposed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from skd_bench.benchmark.latency import LatencyResult, LatencyTarget
from skd_bench.errors import UserError
from skd_edge.evaluation.evaluator import CandidateEvaluator
from skd_edge.models.builder import AnyNetwork
from skd_edge.models.tsm import count_parameters
from skd_edge.pipeline.console import RunConsole
from skd_edge.recipe.schema import NetworkSpec, Recipe
from skd_edge.run_folder import Run
from skd_edge.schedule import search_space as space
from skd_edge.schedule.candidates import TEACHER_KEY, find_fastest_latencies, list_deployments


def propose_students(recipe: Recipe, run: Run, evaluator: CandidateEvaluator, screen: RunConsole) -> Recipe:
    """The recipe with students and assistants where it says ``auto``; another is returned as it is.

    Raises:
        UserError: No network of the space is within the budget; names the fastest and its milliseconds.
    """
    if not recipe.auto:
        return recipe
    students = _shortlist_students(recipe, run, evaluator, screen) if "students" in recipe.auto else recipe.students
    resolved = space.resolve_auto(recipe, students)
    run.record_event(
        "proposed", students=[s.name for s in resolved.students], assistants=[a.name for a in resolved.assistants]
    )
    screen.log("proposed: " + ", ".join(n.name for n in (*resolved.assistants, *resolved.students)))
    return resolved


def _shortlist_students(
    recipe: Recipe, run: Run, evaluator: CandidateEvaluator, screen: RunConsole
) -> list[NetworkSpec]:
    grid = space.build_network_grid(recipe)
    grid_recipe = recipe.model_copy(update={"students": tuple(grid), "auto": ()})
    screen.log(f"auto: {len(grid)} networks are weighed with random weights, and {recipe.space.keep} kept")
    untrained_latency = benchmark_untrained(grid_recipe, run, evaluator, screen)
    times = find_fastest_latencies(grid_recipe, {n: median_ms(x) for n, x in untrained_latency.items()})
    budget_ms = recipe.choice.budget_ms(
        median_ms(untrained_latency[TEACHER_KEY]) if TEACHER_KEY in untrained_latency else math.nan
    )
    if not times:
        raise UserError(f"no network of the space can run: {next(iter(evaluator.unrunnable.values()))}")
    selected = space.shortlist_networks(
        {n.name: n for n in grid if n.name in times}, times, budget_ms, recipe.space.keep
    )
    for name, ms in sorted(times.items(), key=lambda item: item[1]):
        why = (
            "kept"
            if name in {n.name for n in selected}
            else "over the budget"
            if ms > (budget_ms or math.inf)
            else "others lie near"
        )
        run.record_event("proposal", student=name, p50_ms=ms, reason=why)
    if not selected:
        name = min(times, key=lambda n: times[n])
        raise UserError(
            f"no network of the space is within the budget of {budget_ms:.2f} ms; the fastest, {name}, takes "
            f"{times[name]:.2f} ms on the device: raise choice.budget, or list smaller space.widths"
        )
    return selected


def benchmark_untrained(
    recipe: Recipe, run: Run, evaluator: CandidateEvaluator, screen: RunConsole
) -> dict[str, LatencyResult]:
    """Latency of every student in every form, and of the teacher, before anything is trained."""
    with screen.progress_bar("weighing candidates with random weights") as bar:
        targets: list[LatencyTarget] = []
        shapes = set(recipe.same_architecture.values())
        students = tuple(s for s in recipe.students if s.name in shapes)  # equal networks are weighed once
        measured_networks = students if recipe.teacher.logits else (recipe.teacher, *students)
        networks = [(n, evaluator.build_untrained_network(n)) for n in measured_networks]
        evaluator.trace_ahead([built for _, built in networks])
        for number, (network, built) in enumerate(networks):
            bar.update(number, len(networks))
            name = f"random/{network.name}"
            if network is recipe.teacher:
                files = export_teacher(recipe, run, evaluator, built, name, screen)
            else:
                files = evaluator.export_untrained(built, name, recipe.export.precisions)
            for precision, path in files.items():
                run.record_event(
                    "artefact", name=network.name, precision=precision, weights="random", bytes=path.stat().st_size
                )
            if network is recipe.teacher:
                targets += [LatencyTarget(TEACHER_KEY, path, recipe.bench.runtime[0]) for path in files.values()]
            else:
                targets += _make_runnable_targets(recipe, network, files, run, evaluator, screen)
        latency = evaluator.measure_latency(targets, bar.update)
    evaluator.untrained_megabytes = {t.name: Path(t.path).stat().st_size / 1e6 for t in targets}
    for name, one in latency.items():
        run.record_event("measured", name=name, weights="random", p50_ms=median_ms(one))
    return latency


def _make_runnable_targets(
    recipe: Recipe,
    network: NetworkSpec,
    files: Mapping[str, Path],
    run: Run,
    evaluator: CandidateEvaluator,
    screen: RunConsole,
) -> list[LatencyTarget]:
    """A student's files on each runtime that can run them; the others are noted with their reason."""
    targets = []
    for deployment in list_deployments(recipe):
        name = f"{network.name} {deployment.name}"
        if why := evaluator.why_unrunnable(files[deployment.precision], deployment.runtime):
            evaluator.unrunnable[name] = why
            run.record_event("cannot_run", name=name, reason=why)
            screen.log(f"{name}: {why}")
        else:
            targets.append(LatencyTarget(name, files[deployment.precision], deployment.runtime))
    return targets


def export_teacher(
    recipe: Recipe, run: Run, evaluator: CandidateEvaluator, network: AnyNetwork, name: str, screen: RunConsole
) -> dict[str, Path]:
    """The teacher's file, to compare. One made elsewhere may go without, unless the budget is a multiple of it."""
    try:
        return evaluator.export_untrained(network, name, ("fp32",))
    except UserError as error:
        if recipe.teacher.source is None:
            raise
        if recipe.choice.has_relative_budget:
            raise UserError(
                f"choice.budget {recipe.choice.budget!r} needs the teacher's milliseconds, and its file cannot be made "
                f"({error}); give the budget in milliseconds ('8 ms')"
            ) from error
        run.record_event("teacher_not_exported", reason=str(error))
        screen.log(f"the teacher is not measured: {error}")
        return {}


def report_budget(
    recipe: Recipe,
    run: Run,
    screen: RunConsole,
    untrained_latency: dict[str, LatencyResult],
    budget_ms: float | None,
    dropped: dict[str, str],
) -> None:
    """Say what each candidate costs and which are out."""
    for name, one in sorted(untrained_latency.items(), key=lambda item: median_ms(item[1])):
        screen.log(f"{name}: {median_ms(one):.2f} ms (p50, random weights)")
    if budget_ms is not None:
        screen.log(f"budget: {budget_ms:.2f} ms")
    for student, reason in dropped.items():
        run.record_event("pruned", student=student, reason=reason)
        screen.log(f"{student}: {reason}")
    students = {n: x for n, x in untrained_latency.items() if n != TEACHER_KEY}
    if budget_ms is not None and students and all(median_ms(x) > budget_ms for x in students.values()):
        name, best = min(((n, median_ms(x)) for n, x in students.items()), key=lambda item: item[1])
        raise UserError(
            f"no candidate is within the budget of {budget_ms:.2f} ms; the fastest, {name}, takes {best:.2f} ms on "
            "the device: raise choice.budget, or add a smaller student"
        )
    if len(dropped) == len(recipe.students):
        raise UserError("no student may be trained: " + "; ".join(f"{n}: {why}" for n, why in dropped.items()))


def warn_larger_than_teacher(
    recipe: Recipe, students: Sequence[NetworkSpec], run: Run, evaluator: CandidateEvaluator, screen: RunConsole
) -> None:
    """Warn of every job whose learner has more weights than its teacher: it can be done, and is seldom meant."""
    without_weights = {recipe.teacher.name} if recipe.teacher.logits else set()  # answers in a file have no weights
    with_weights = {name: network for name, network in recipe.networks.items() if name not in without_weights}
    size = {
        name: count_parameters(evaluator.build_untrained_network(network)) for name, network in with_weights.items()
    }
    paths = ((recipe.teacher.name, *path, s.name) for s in students for path in recipe.cascade_paths)
    pairs = {(a, b) for path in paths for a, b in pairwise(path) if a not in without_weights and size[b] > size[a]}
    for teacher, learner in sorted(pairs):
        screen.log(
            f"warning: {learner} ({size[learner]:,} weights) is larger than {teacher} ({size[teacher]:,}), "
            "which teaches it; put the larger one first, or leave it out of schedule.paths"
        )
        run.record_event("larger", learner=learner, teacher=teacher, weights=[size[learner], size[teacher]])


def median_ms(latency: LatencyResult) -> float:
    """Median milliseconds.

    Raises:
        UserError: It was not measured.
    """
    if latency.p50 is None:
        raise UserError(f"{latency.name} was not measured: no query came back; raise bench.queries")
    return latency.p50.value
