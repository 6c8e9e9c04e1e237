"""The jobs of the cascade are trained, all of them or as a search asks for them."""

from __future__ import annotations

from collections.abc import Set
from contextlib import closing

from skd_bench.errors import UserError
from skd_edge.execution.job_graph import JobFactory, TrainingJob, fingerprint_of
from skd_edge.execution.local_executor import JobResult, LocalExecutor, OutOfMemory, check_teacher_floor
from skd_edge.labels.dataset import TrainingData
from skd_edge.pipeline.console import JobProgress, RunConsole
from skd_edge.pipeline.context import RunContext
from skd_edge.pipeline.results import TrainedCascade, UntrainedBenchmark
from skd_edge.recipe.networks import Teacher
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run, read_journal
from skd_edge.schedule.candidates import find_fastest_latencies
from skd_edge.schedule.successive_halving import Search, run_search


def train(ctx: RunContext, benchmark: UntrainedBenchmark, data: TrainingData) -> TrainedCascade:
    """Train what the search asks for; a network that does not fit into memory goes on in half batches, as other jobs.

    Raises:
        UserError: A network does not fit into memory in half batches either, or a teacher is below the recipe's floor.
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
    """Names of the networks whose batches of this size did not fit into memory in this run."""
    events = (e for e in read_journal(run.folder) if e["event"] == "halved")
    return frozenset(e["learner"] for e in events if e["batch"] == recipe.training.batch)


def train_jobs(
    teacher: Teacher, jobs: list[TrainingJob], executor: LocalExecutor, console: RunConsole
) -> list[JobResult]:
    """These jobs, teachers first; a teacher below the recipe's floor stops it before anything learns from it.

    Raises:
        UserError: A job cannot be trained, or the teacher is below its floor.
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
        data.clips.val.groups,
        ctx.run.record_event,
    )


def _record_halved(ctx: RunContext, executor: LocalExecutor, batch: int, error: OutOfMemory) -> None:
    ctx.run.record_event("halved", learner=error.learner, batch=batch, reason=str(error))
    if executor.process_group.size > 1:  # the other processes still wait in the step that this one left
        raise UserError(
            f"{error}; start the same command again: {error.learner}'s batches of {batch} will go through in half parts"
        ) from error
    ctx.console.log(f"{error.learner}: out of memory; its batches of {batch} go through in half parts from now on")
