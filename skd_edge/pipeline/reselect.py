"""``skd-edge choose``: choose again among a run's candidates, by another rule. Nothing is trained or measured.

The rule may be changed any number of times, because it uses the validation clips only. ``confirm`` stores the new
choice in the run. Its file is then scored on the test clips, and the ledger counts it unless it was scored before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from skd_bench.errors import UsageError, UserError
from skd_bench.integrity.checked_files import DamagedFileError
from skd_edge.execution.job_graph import JobFactory, build_job_graph, fingerprint_of
from skd_edge.labels.dataset import TrainingData
from skd_edge.models.external.factory import allow_recipe_code
from skd_edge.pipeline.context import RunContext, RunOptions, make_run_device, open_run
from skd_edge.pipeline.results import RunResult, TrainedCascade, UntrainedBenchmark
from skd_edge.pipeline.stages.benchmark_untrained import apply_budget, measure_untrained
from skd_edge.pipeline.stages.bundle import write_run_bundle
from skd_edge.pipeline.stages.confirm_on_test import confirm_on_test, open_test_set
from skd_edge.pipeline.stages.evaluate import evaluate
from skd_edge.pipeline.stages.preflight import check_measurable
from skd_edge.pipeline.stages.prepare_data import prepare_data
from skd_edge.pipeline.stages.report import write_report
from skd_edge.pipeline.stages.select import select
from skd_edge.pipeline.stages.train import read_halved_networks
from skd_edge.recipe.loader import load_recipe
from skd_edge.recipe.schema import Recipe
from skd_edge.run_files.journal import check_journal
from skd_edge.run_folder import (
    JOB_FILE,
    JOURNAL_FILE,
    RECIPE_FILE,
    check_run_kind,
    read_journal,
    read_run_recipe,
    refuse_special_files,
)
from skd_edge.schedule.search_space import restore_proposal
from skd_edge.schedule.selection import Decision

_REPEAT_COMPRESS = "repeat the skd-edge compress command (other finished jobs are not trained again), then choose"


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
        sets: changes of the recipe's section ``choice``, each ``choice.key=value``.
        confirm: store the choice in the run: score the file on the test clips, rewrite recipe, report and bundle.
        allow_code: whether the teacher's factory may run.
        console: where the candidates are shown; None shows nothing.

    Raises:
        UsageError: The folder is not a run, something other than ``choice`` is changed, or a fold is to be confirmed.
        UserError: The run has no trained student yet, or a measurement is missing.
    """
    recipe, original = _load_changed_and_original_recipe(folder, sets)
    if confirm and recipe.fold is not None:
        raise UsageError(f"{folder} is a fold of a cross-validation, which ships nothing; leave --confirm out")
    allow_recipe_code(recipe, allow_code)
    options = RunOptions(console=console, allow_code=allow_code)
    device = make_run_device(recipe, folder, options, cache_only=True)
    check_measurable(recipe, device)
    with open_run(recipe, folder, options, stored_recipe=recipe if confirm else original, device=device) as ctx:
        proposed = _restore_proposed_networks(ctx)
        benchmark = apply_budget(proposed, measure_untrained(ctx, proposed))
        data = prepare_data(ctx, proposed)
        trained = load_trained(ctx, benchmark, data)
        evaluated = evaluate(ctx, benchmark, data, trained)
        decision = select(ctx, benchmark, data, evaluated)
        if confirm:
            test_clips = open_test_set(ctx, data, evaluated, decision)
            test = confirm_on_test(ctx, data, trained, evaluated, test_clips)
            bundle = write_run_bundle(ctx, data, trained, evaluated, decision, test)
            write_report(ctx, RunResult(benchmark, data, trained, evaluated, decision, test, bundle))
    return decision


def load_trained(ctx: RunContext, benchmark: UntrainedBenchmark, data: TrainingData) -> TrainedCascade:
    """Load the jobs that this run trained, in place of the stage `train`.

    Raises:
        UserError: The run trained no student.
    """
    recipe = benchmark.recipe
    executor = ctx.make_executor(recipe, ctx.run, data)
    factory = JobFactory(recipe, fingerprint_of(data), read_halved_networks(ctx.run, recipe))
    jobs = build_job_graph(factory, recipe.students)
    # Only this run's own jobs: files of other runs in the cache were not measured in the same session.
    own = {e["job"] for e in read_journal(ctx.run.folder) if e["event"] in ("job_finished", "job_cached")}
    own |= {path.parent.name for path in ctx.run.folder.glob(f"jobs/*/{JOB_FILE}")}  # also if the journal was cut
    own_jobs = [job for job in jobs if job.hash in own]
    if lost := [job for job in own_jobs if not ctx.run.fetch_job(job.hash)]:
        raise UserError(
            f"{ctx.run.job_folder(lost[0].hash)}, a job that the run had finished, is missing or was damaged; "
            f"{_REPEAT_COMPRESS}"
        )
    results = [executor.train_job(job) for job in own_jobs]
    if not any(result.job.spec.role == "student" for result in results):
        raise UserError(f"{ctx.run.folder} has no trained student to choose from; run skd-edge compress first")
    paths = {result.job.spec.path for result in results}
    untrained = (job.spec.path for job in jobs if job.spec.role == "student" and job.spec.path not in paths)
    return TrainedCascade(tuple(results), dict.fromkeys(untrained, "not trained in this run"), executor)


def _restore_proposed_networks(ctx: RunContext) -> Recipe:
    """The recipe with the networks that the run proposed, where it says ``auto``.

    Raises:
        UserError: The run ended before it proposed networks.
    """
    proposals = [e["students"] for e in read_journal(ctx.run.folder) if e["event"] == "proposed"]
    if ctx.recipe.auto and not proposals:
        raise UserError(f"{ctx.run.folder} has no trained student to choose from; run skd-edge compress first")
    return restore_proposal(ctx.recipe, proposals[-1] if proposals else ())


def _load_changed_and_original_recipe(folder: Path, sets: Sequence[str]) -> tuple[Recipe, Recipe]:
    """The run's recipe with ``sets`` applied, and without.

    Raises:
        UsageError: The folder is not a run, or something other than ``choice`` is changed.
    """
    if not (folder / JOURNAL_FILE).exists():
        raise UsageError(f"{folder} is not a run of skd-edge; give the folder that compress wrote")
    refuse_special_files(folder)
    check_run_kind(folder, crossval=False)
    try:
        check_journal(folder)
    except DamagedFileError as error:
        raise UserError(f"{error}; {_REPEAT_COMPRESS}") from None
    read_run_recipe(folder)
    file = str(folder / RECIPE_FILE)
    before, after = load_recipe(file), load_recipe(file, sets)
    if after.model_copy(update={"choice": before.choice}) != before:
        wrong = next(one for one in sets if not one.startswith("choice."))
        raise UsageError(
            f"--set {wrong}: only choice.* may change here, because nothing is trained or measured again; "
            "for other changes run skd-edge compress"
        )
    return after, before
