"""Chooses the executor that trains the jobs of a run (``--engine`` and ``--jobs``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from skd_bench.errors import UsageError
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.distill.distributed import ProcessGroup
from skd_edge.distill.trainer import SINGLE_PROCESS
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.execution.parallel_executor import ParallelExecutor
from skd_edge.execution.threads import configure_threads, count_parallel_jobs
from skd_edge.execution.torchrun_executor import TorchrunExecutor
from skd_edge.labels.dataset import TrainingData
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run

ExecutorName = Literal["local", "ray"]
ExecutorFactory = Callable[[Recipe, Run, TrainingData], LocalExecutor]


def make_executor_factory(
    name: ExecutorName,
    threads: int,
    *,
    most_jobs: int | None = None,
    allow_code: bool = False,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> ExecutorFactory:
    """Return the function that makes the executor of a run, called when the training data are loaded.

    The arguments are checked, and missing packages are found, before any data are loaded. The threads of this process
    are configured.

    Args:
        name: ``local``: jobs are trained on this machine; ``ray``: jobs are Ray tasks, as many in parallel as the
            cluster has room for.
        threads: threads of one job, ``training.threads`` of the recipe.
        most_jobs: number of jobs that are trained at the same time on this machine, at most; 1: one after the other in
            this process; None: as many as there are cores for.
        allow_code: whether the recipe's factory may run in other processes; in this one, `allow_factory_code` decides.
        process_group: the processes that train one job together.

    Raises:
        UsageError: The engine is unknown, or the options cannot be combined.
        ImportError: Ray is not installed.
    """
    if most_jobs is not None and most_jobs < 1:
        raise UsageError(f"jobs is {most_jobs}; at least 1 job is trained at a time")
    if name not in ("local", "ray"):
        raise UsageError(f"unknown engine {name!r}; choose from local, ray")
    if name == "ray" and most_jobs is not None:
        raise UsageError("--jobs and --engine ray cannot be combined; Ray starts as many jobs as the cluster has CPUs")
    configure_threads(threads)
    if process_group.size > 1:
        if name != "local" or (most_jobs or 1) > 1:
            raise UsageError(
                "torchrun cannot be combined with --engine ray or --jobs; start skd-edge without torchrun, or without "
                "these options"
            )
        return lambda recipe, run, training_data: TorchrunExecutor(recipe, run, training_data, process_group)
    if name == "ray":
        from skd_edge.execution.ray_executor import RayExecutor

        return lambda recipe, run, training_data: RayExecutor(recipe, run, training_data, allow_code=allow_code)
    jobs = most_jobs or count_parallel_jobs(threads)
    if jobs == 1:
        return lambda recipe, run, training_data: LocalExecutor(
            run, training_data, recipe.labels, inference_preprocessing(recipe.clip)[1]
        )
    return lambda recipe, run, training_data: ParallelExecutor(
        recipe, run, training_data, most_jobs=jobs, allow_code=allow_code
    )
