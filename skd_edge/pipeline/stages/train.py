"""The jobs of the cascade are trained, all of them or as a search asks for them."""

from __future__ import annotations

from contextlib import closing

from skd_bench.errors import UserError
from skd_edge.execution.job_graph import TrainingJob
from skd_edge.execution.local_executor import JobResult, LocalExecutor, OutOfMemory, check_teacher_floor
from skd_edge.pipeline.console import JobProgress, RunConsole
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run, read_journal
from skd_edge.schedule.successive_halving import Search


def train(recipe: Recipe, run: Run, search: Search, executor: LocalExecutor, console: RunConsole) -> list[JobResult]:
    """What the search asks for; a network that does not fit into memory learns in half batches, under new hashes."""
    batch, halved = recipe.training.batch, search.job_factory.half_batch_networks
    halved |= read_halved_networks(run, recipe)
    while True:
        try:
            return run_search(recipe, search, executor, console)
        except OutOfMemory as error:
            if error.learner in halved:
                raise
            halved.add(error.learner)
            run.record_event("halved", learner=error.learner, batch=batch, reason=str(error))
            if executor.process_group.size > 1:  # the other processes still wait in the step that this one left
                raise UserError(
                    f"{error}; start the same command again: {error.learner}'s batches of {batch} will go "
                    "through in half parts"
                ) from error
            console.log(f"{error.learner}: out of memory; its batches of {batch} go through in half parts from now on")


def read_halved_networks(run: Run, recipe: Recipe) -> set[str]:
    """Names of the networks whose batches of this size did not fit into memory in this run."""
    events = (e for e in read_journal(run.folder) if e["event"] == "halved")
    return {e["learner"] for e in events if e["batch"] == recipe.training.batch}


def run_search(recipe: Recipe, search: Search, executor: LocalExecutor, console: RunConsole) -> list[JobResult]:
    """Step by step: what is finished decides what comes next."""
    job_results: list[JobResult] = []
    steps = search.iter_job_batches()
    jobs = next(steps)
    while True:
        job_results += (new_results := train_jobs(recipe, jobs, executor, console))
        try:
            jobs = steps.send({job_result.job.hash: job_result for job_result in new_results})
        except StopIteration:
            return job_results


def train_jobs(
    recipe: Recipe, jobs: list[TrainingJob], executor: LocalExecutor, console: RunConsole
) -> list[JobResult]:
    """These jobs, teachers first; a teacher below the recipe's floor stops it before anything learns from it."""
    job_results = []
    with JobProgress(console, jobs) as progress, closing(executor.train_all(jobs)) as finishing:
        executor.on_progress = progress.update_job
        for job_result in finishing:
            job_results.append(job_result)
            progress.finish_job(job_result)
            check_teacher_floor(recipe.teacher, job_result)
    return sorted(
        job_results, key=lambda job_result: jobs.index(job_result.job)
    )  # an engine may finish them in another order
