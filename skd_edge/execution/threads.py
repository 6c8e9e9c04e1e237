"""Sets the number of threads that train a job, and how many jobs the cores of this machine have room for."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from skd_edge.execution.malloc_settings import keep_freed_memory


def configure_threads(count: int | None) -> int:
    """Prepare this process for training: set the threads of torch and numpy, and keep freed memory.

    The number of threads determines the order in which floats are added, and so the exact weights. It is therefore
    part of each job's hash. Where a GPU trains, threads only prepare the clips, and torch chooses their number.

    Args:
        count: number of threads, at least 1; None: the default of torch and numpy.

    Returns:
        The number of threads of torch.
    """
    keep_freed_memory()
    if count is not None and not torch.cuda.is_available():
        torch.set_num_threads(count)
        threadpool_limits(count)
    return torch.get_num_threads()


def count_parallel_jobs(threads: int) -> int:
    """How many jobs of so many threads the cores of this machine have room for; 1 where a GPU trains."""
    if torch.cuda.is_available():
        return 1
    cores: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # a container may have less time than cores
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(int(cores) // threads, 1)
