"""Chooses the executor that trains the jobs of a run (``--engine``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from skd_bench.errors import UsageError
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.distill.distributed import ProcessGroup
from skd_edge.distill.trainer import SINGLE_PROCESS
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.execution.threads import configure_threads
from skd_edge.execution.torchrun_executor import TorchrunExecutor
from skd_edge.labels.dataset import TrainingData
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run

ExecutorName = Literal["local", "ray"]
ExecutorFactory = Callable[[Recipe, Run, TrainingData], LocalExecutor]


def make_executor_factory(
    name: ExecutorName,
    *,
    threads: int | None = None,
    allow_code: bool = False,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> ExecutorFactory:
    """Return the function that makes the executor of a run, called when the training data are loaded.

    The arguments are checked, and missing packages are found, before any data are loaded. The threads of this process
    are configured.

    Args:
        name: ``local``: one job after the other in this process; ``ray``: jobs are Ray tasks, as many in parallel as
            the cluster has room for.
        threads: threads of one job, at least 1; None: torch's default. Equal jobs with equal threads have equal
            weights.
        allow_code: whether the recipe's factory may run in Ray's workers; in this process, `allow_factory_code`
            decides.
        process_group: the processes that train one job together.

    Raises:
        UsageError: The engine is unknown or cannot be combined with torchrun, or ``threads`` is less than 1.
        ImportError: Ray is not installed.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}; a job needs at least 1")
    if name not in ("local", "ray"):
        raise UsageError(f"unknown engine {name!r}; choose from local, ray")
    threads = configure_threads(threads)
    if process_group.size > 1:
        if name != "local":
            raise UsageError(
                "torchrun and --engine ray cannot be combined; start skd-edge without torchrun, or use --engine local"
            )
        return lambda recipe, run, training_data: TorchrunExecutor(recipe, run, training_data, process_group)
    if name == "local":
        return lambda recipe, run, training_data: LocalExecutor(
            run, training_data, recipe.labels, inference_preprocessing(recipe.clip)[1]
        )
    from skd_edge.execution.ray_executor import RayExecutor

    return lambda recipe, run, training_data: RayExecutor(
        recipe, run, training_data, threads=threads, allow_code=allow_code
    )
