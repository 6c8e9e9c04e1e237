"""Second thoughts: choose again among what a run measured, by another rule; nothing is trained or measured.

The rule may be changed as often as one likes, because it looks at the validation clips only. ``confirm`` makes the new
choice the run's: its file is scored on the test clips, which counts as another look where it is another file.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from skd_bench.errors import UsageError, UserError
from skd_bench.files import write_json
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.data.sources.registry import list_classes
from skd_edge.evaluation.devices import make_device
from skd_edge.evaluation.evaluator import CandidateEvaluator
from skd_edge.execution.job_graph import JobFactory, build_job_graph, fingerprint_of
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.models.external.factory import allow_factory_code
from skd_edge.pipeline.console import RunConsole
from skd_edge.pipeline.results import RunResult
from skd_edge.pipeline.stages.benchmark_untrained import benchmark_untrained, median_ms
from skd_edge.pipeline.stages.evaluate import evaluate_candidates
from skd_edge.pipeline.stages.preflight import check_measurable
from skd_edge.pipeline.stages.prepare_data import prepare_data
from skd_edge.pipeline.stages.report import finalise_run
from skd_edge.pipeline.stages.select import select_on_validation
from skd_edge.pipeline.stages.train import read_halved_networks
from skd_edge.recipe.loader import load_recipe, resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.report.html import render_run
from skd_edge.run_folder import JOURNAL_FILE, Run, read_journal
from skd_edge.schedule.candidates import TEACHER_KEY
from skd_edge.schedule.search_space import restore_proposal
from skd_edge.schedule.selection import Decision


def reselect(
    folder: Path,
    sets: Sequence[str] = (),
    *,
    confirm: bool = False,
    allow_code: bool = False,
    console: Console | None = None,
) -> Decision:
    """Choose among the candidates that a finished run trained and measured.

    Args:
        folder: the run folder.
        sets: changes of ``choice``, each ``choice.key=value``.
        confirm: make it the run's choice: recipe, report and bundle are written anew, and the test clips looked at.
        allow_code: whether the teacher's factory may run.
        console: where the candidates are shown.

    Raises:
        UsageError: It is not a run, or something other than ``choice`` is changed.
        UserError: The run trained no student yet, or holds no measurements.
    """
    began, run_console = time.monotonic(), RunConsole(console)
    recipe, original_recipe = load_changed_and_original_recipe(folder, sets)
    allow_factory_code(recipe.teacher, allow_code)
    device = make_device(recipe.bench, folder, energy=recipe.choice.max_joules is not None)
    device.cache_only = True
    check_measurable(recipe, device)
    with Run(folder, resolved_yaml(recipe if confirm else original_recipe)) as run:
        evaluator = CandidateEvaluator(
            recipe,
            list_classes(
                recipe.data, seed=recipe.seed, cache=run.cache, external_labels=recipe.labels.has_external_sources
            ),
            folder / "artefacts",
            device,
        )
        events = read_journal(folder)
        recipe = evaluator.recipe = restore_proposed_networks(recipe, events, folder)
        untrained_latency = benchmark_untrained(recipe, run, evaluator, run_console)
        budget_ms = recipe.choice.budget_ms(
            median_ms(untrained_latency[TEACHER_KEY]) if TEACHER_KEY in untrained_latency else math.nan
        )
        evaluator.training_data = training_data = prepare_data(recipe, run, run_console)
        executor = LocalExecutor(run, training_data, recipe.labels, inference_preprocessing(recipe.clip)[1])
        job_factory = JobFactory(recipe, fingerprint_of(training_data))
        job_factory.half_batch_networks |= read_halved_networks(run, recipe)
        jobs = build_job_graph(job_factory, recipe.students)
        # This run's own jobs: what other runs put into the cache was not measured beside them.
        own_jobs = {e["job"] for e in events if e["event"] in ("job_finished", "job_cached")}
        job_results = [executor.train_job(job) for job in jobs if job.hash in own_jobs and run.fetch_job(job.hash)]
        if not any(f.job.spec.role == "student" for f in job_results):
            raise UserError(f"{folder} has no trained student to choose from; run skd-edge compress first")
        candidate_results, teacher_result = evaluate_candidates(
            recipe, run, evaluator, executor, job_results, TEACHER_KEY in untrained_latency, run_console
        )
        decision = select_on_validation(recipe, run, training_data, candidate_results, budget_ms, run_console)
        if confirm:
            trained_paths = {f.job.spec.path for f in job_results}
            pruned = {
                n.spec.path: "not trained in this run"
                for n in jobs
                if n.spec.role == "student" and n.spec.path not in trained_paths
            }
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
                {},
                pruned,
            )
            write_json(folder / "report.json", finalise_run(run_result, time.monotonic() - began))
            render_run(folder)
            run_console.log(f"report: {folder / 'report.html'}")
    return decision


def restore_proposed_networks(recipe: Recipe, events: Sequence[dict[str, Any]], folder: Path) -> Recipe:
    """The recipe with the networks that the run proposed for itself, where it was asked to.

    Raises:
        UserError: It did not get that far.
    """
    proposals = [e["students"] for e in events if e["event"] == "proposed"]
    if recipe.auto and not proposals:
        raise UserError(f"{folder} has no trained student to choose from; run skd-edge compress first")
    return restore_proposal(recipe, proposals[-1] if proposals else ())


def load_changed_and_original_recipe(folder: Path, sets: Sequence[str]) -> tuple[Recipe, Recipe]:
    """The run's recipe with its choice changed, and as it was.

    Raises:
        UsageError: It is not a run, or something other than ``choice`` is changed.
    """
    if not (folder / JOURNAL_FILE).exists():
        raise UsageError(f"{folder} is not a run of skd-edge; give the folder that compress wrote")
    file = str(folder / "recipe.yaml")
    before, after = load_recipe(file), load_recipe(file, sets)
    if after.model_copy(update={"choice": before.choice}) != before:
        wrong = next(one for one in sets if not one.startswith("choice."))
        raise UsageError(
            f"--set {wrong}: only choice.* may change here, because nothing is trained or measured again; "
            "for anything else: skd-edge compress"
        )
    return after, before
