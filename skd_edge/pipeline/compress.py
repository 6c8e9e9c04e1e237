"""The story, top to bottom: weak labels and a teacher in, measured engines and a report out.

weigh every candidate with random weights -> clips -> train the tree of jobs -> export and weigh -> choose
-> confirm once on the test clips -> bundle -> report
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from skd_bench.files import write_json
from skd_edge.version import VERSION
from skd_edge.data.sources.registry import list_classes
from skd_edge.distill.distributed import make_process_group
from skd_edge.distill.job import METHOD_VERSION
from skd_edge.evaluation.devices import make_device
from skd_edge.evaluation.evaluator import CandidateEvaluator
from skd_edge.evaluation.litert_export import check_litert_available
from skd_edge.execution.executors import ExecutorName, make_executor_factory
from skd_edge.execution.job_graph import JobFactory, fingerprint_of
from skd_edge.execution.torchrun_executor import run_worker_rank
from skd_edge.labels.cleaning.confident_learning import require_cleanlab
from skd_edge.models.builder import validate_teacher
from skd_edge.pipeline.console import RunConsole
from skd_edge.pipeline.plan import Plan, plan
from skd_edge.pipeline.results import RunResult
from skd_edge.pipeline.stages.benchmark_untrained import (
    benchmark_untrained,
    median_ms,
    propose_students,
    report_budget,
    warn_larger_than_teacher,
)
from skd_edge.pipeline.stages.evaluate import evaluate_candidates
from skd_edge.pipeline.stages.preflight import check_measurable, check_reject_background, warn_method_changed
from skd_edge.pipeline.stages.prepare_data import prepare_data
from skd_edge.pipeline.stages.report import finalise_run
from skd_edge.pipeline.stages.select import select_on_validation
from skd_edge.pipeline.stages.train import train
from skd_edge.recipe.loader import resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.report.html import render_run
from skd_edge.run_folder import Run
from skd_edge.schedule.candidates import (
    TEACHER_KEY,
    filter_by_budget,
    find_fastest_latencies,
)
from skd_edge.schedule.successive_halving import Search

__all__ = ["Plan", "compress", "plan"]


def compress(
    recipe: Recipe,
    out: Path,
    *,
    console: Console | None = None,
    engine: ExecutorName = "local",
    threads: int | None = None,
    allow_code: bool = False,
    measurements: Sequence[Path] = (),
    python: str = "python3",
) -> Path:
    """Run a recipe from its clips to its report; what is finished already is not done again.

    Args:
        recipe: what to do.
        out: the run folder, new or of an earlier run.
        console: where progress is shown; None is silent.
        engine: where jobs are trained, see ``engine_of``.
        threads: of one job; None leaves torch's own choice.
        allow_code: whether the recipe's ``teacher_result.factory``, somebody's code, may run.
        measurements: what packs found on a device without a link, see ``Carried``; instead of measuring.
        python: the Python of ``bench.host``.

    Returns:
        The run folder, with ``report.html``, ``report.json``, ``report.md`` and ``bundle/``.

    Raises:
        UsageError: The run folder cannot be used, or the recipe names code and ``allow_code`` is False.
        UserError: Something that the recipe names is missing, or cannot be; no candidate is within the budget.
    """
    began, run_console = time.monotonic(), RunConsole(console)
    validate_teacher(recipe.teacher, clip=recipe.clip, seed=recipe.seed, allow_code=allow_code)
    if recipe.labels.method == "confident":
        require_cleanlab()
    if recipe.export.litert:
        check_litert_available()
    process_group = make_process_group()
    executor_factory = make_executor_factory(
        engine, threads=threads, allow_code=allow_code, process_group=process_group
    )
    if process_group.rank:
        run_worker_rank(process_group, recipe, out)
        return out
    energy = recipe.choice.max_joules is not None
    device = make_device(recipe.bench, out, measurements=measurements, python=python, energy=energy)
    check_measurable(recipe, device)
    with Run(out, resolved_yaml(recipe)) as run:
        warn_method_changed(run, run_console)
        run.record_event("started", recipe=recipe.name, seed=recipe.seed, version=VERSION, method=METHOD_VERSION)
        # Before any clip is rendered or decoded: a budget that nobody can meet costs nothing but this.
        classes = list_classes(
            recipe.data, seed=recipe.seed, cache=run.cache, external_labels=recipe.labels.has_external_sources
        )
        check_reject_background(recipe.choice, classes)
        evaluator = CandidateEvaluator(recipe, classes, run.folder / "artefacts", device)
        evaluator.log = run_console.log
        recipe = evaluator.recipe = propose_students(recipe, run, evaluator, run_console)
        untrained_latency = benchmark_untrained(recipe, run, evaluator, run_console)
        p50_ms = {name: median_ms(one) for name, one in untrained_latency.items()}
        budget_ms = recipe.choice.budget_ms(p50_ms.get(TEACHER_KEY, math.nan))
        joules = {name: one.joules.value for name, one in untrained_latency.items() if one.joules}
        students, dropped = filter_by_budget(recipe, p50_ms, budget_ms, evaluator.untrained_megabytes, joules)
        report_budget(recipe, run, run_console, untrained_latency, budget_ms, dropped)
        warn_larger_than_teacher(recipe, students, run, evaluator, run_console)

        evaluator.training_data = training_data = prepare_data(recipe, run, run_console)
        job_factory = JobFactory(recipe, fingerprint_of(training_data))
        search = Search(
            job_factory,
            students,
            find_fastest_latencies(recipe, p50_ms),
            training_data.clips.val.groups,
            run.record_event,
        )
        executor = executor_factory(recipe, run, training_data)
        job_results = train(recipe, run, search, executor, run_console)

        candidate_results, teacher_result = evaluate_candidates(
            recipe, run, evaluator, executor, job_results, TEACHER_KEY in untrained_latency, run_console
        )
        decision = select_on_validation(recipe, run, training_data, candidate_results, budget_ms, run_console)
        run_result = RunResult(
            recipe,
            run,
            training_data,
            evaluator,
            executor,
            job_results,
            untrained_latency,
            candidate_results,
            teacher_result,
            decision,
            budget_ms,
            dropped,
            search.pruned,
        )
        write_json(run.folder / "report.json", finalise_run(run_result, time.monotonic() - began))
        render_run(run.folder)
        run.record_event("finished", seconds=round(time.monotonic() - began, 1))
        run_console.log(f"report: {run.folder / 'report.html'}")
    process_group.broadcast(None)  # nothing is left
    return out
