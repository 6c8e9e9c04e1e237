"""Which engine trains the jobs, and with how many threads."""

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
    """What makes the engine of a run, once its clips are known; a package that is missing is missed here.

    Args:
        name: ``local``: one job after the other in this process; ``ray``: jobs are Ray tasks, as many at a time as the
            cluster has room for.
        threads: of one job, >= 1; None leaves torch's own choice. Equal jobs at equal threads have equal weights.
        allow_code: whether a named factory may run in Ray's workers (in this process: see ``permit``).
        process_group: the processes that train one job together.

    Raises:
        UsageError: There is no such engine, or fewer than one thread.
        ImportError: Ray is not installed.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}; a job needs at least 1")
    if name not in ("local", "ray"):
        raise UsageError(f"there is no engine {name!r}; there are local and ray")
    threads = configure_threads(threads)
    if process_group.size > 1:
        if name != "local":
            raise UsageError("torchrun divides a job among processes and --engine ray gives each job to one; use one")
        return lambda recipe, run, material: TorchrunExecutor(recipe, run, material, process_group)
    if name == "local":
        return lambda recipe, run, material: LocalExecutor(
            run, material, recipe.labels, inference_preprocessing(recipe.clip)[1]
        )
    from skd_edge.execution.ray_executor import RayExecutor

    return lambda recipe, run, material: RayExecutor(recipe, run, material, threads=threads, allow_code=allow_code)
