"""Stage 4: train the jobs of the cascade, either all of them or those that successive halving selects."""

from __future__ import annotations

from collections.abc import Set
from contextlib import closing

from skd_bench.errors import UserError
from skd_edge.execution.job_graph import JobFactory, TrainingJob, fingerprint_of
from skd_edge.execution.job_results import JobResult, OutOfMemory, check_teacher_floor
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.labels.dataset import TrainingData
from skd_edge.pipeline.console import JobProgress, RunConsole
from skd_edge.pipeline.context import RunContext
from skd_edge.pipeline.results import TrainedCascade, UntrainedBenchmark
from skd_edge.recipe.networks import Teacher
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run, read_journal
from skd_edge.schedule.candidates import find_fastest_latencies
from skd_edge.schedule.choice_metric import ChoiceMetric
from skd_edge.schedule.successive_halving import Search, run_search


def train(ctx: RunContext, benchmark: UntrainedBenchmark, data: TrainingData) -> TrainedCascade:
    """Train the jobs that the search requests. A network that runs out of memory is trained again in half batches.

    Raises:
        UserError: A network does not fit into memory even in half batches, or a teacher is below ``teacher.floor``.
    """
    recipe = benchmark.recipe
    executor = ctx.make_executor(recipe, ctx.run, data)
    halved = read_halved_networks(ctx.run, recipe)
    while True:
        search = _make_search(ctx, benchmark, data, halved)
        try:
            results = run_search(search, lambda jobs: train_jobs(recipe.teacher, jobs, executor, ctx.console))
            return TrainedCascade(tuple(results), search.pruned, executor)
        except OutOfMemory as error:
            if error.learner in halved:
                raise
            halved |= {error.learner}
            _record_halved(ctx, executor, recipe.training.batch, error)


def read_halved_networks(run: Run, recipe: Recipe) -> Set[str]:
    """Names of the networks whose batches (of the recipe's size) did not fit into memory earlier in this run."""
    events = (e for e in read_journal(run.folder) if e["event"] == "halved")
    return frozenset(e["learner"] for e in events if e["batch"] == recipe.training.batch)


def train_jobs(
    teacher: Teacher, jobs: list[TrainingJob], executor: LocalExecutor, console: RunConsole
) -> list[JobResult]:
    """Train jobs, teachers first. A teacher below ``teacher.floor`` stops the training before a student uses it.

    Returns:
        The results in the order of ``jobs``.

    Raises:
        UserError: A job cannot be trained, or the teacher is below ``teacher.floor``.
    """
    results = []
    with (
        JobProgress(console, jobs) as progress,
        closing(executor.train_all(jobs, progress.update_job)) as finished,
    ):
        for result in finished:
            results.append(result)
            progress.finish_job(result)
            check_teacher_floor(teacher, result)
    return sorted(results, key=lambda result: jobs.index(result.job))  # an executor may finish them in another order


def _make_search(ctx: RunContext, benchmark: UntrainedBenchmark, data: TrainingData, halved: Set[str]) -> Search:
    recipe = benchmark.recipe
    return Search(
        JobFactory(recipe, fingerprint_of(data), halved),
        benchmark.students,
        find_fastest_latencies(recipe, benchmark.p50_ms),
        ChoiceMetric(recipe.choice.metric, data.clips.val.labels, data.clips.val.groups),
        ctx.run.record_event,
    )


def _record_halved(ctx: RunContext, executor: LocalExecutor, batch: int, error: OutOfMemory) -> None:
    ctx.run.record_event("halved", learner=error.learner, batch=batch, reason=str(error))
    if executor.process_group.size > 1:  # the other processes wait in the step that failed here
        raise UserError(
            f"{error}; start the same command again: {error.learner} will be trained in half batches then"
        ) from error
    ctx.console.log(f"{error.learner}: out of memory; from now on its batches of {batch} are computed in two halves")
