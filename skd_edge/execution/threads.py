"""Sets the number of threads that train a job."""

from __future__ import annotations

import torch
from threadpoolctl import threadpool_limits

from skd_edge.execution.malloc_settings import keep_freed_memory


def configure_threads(count: int | None) -> int:
    """Prepare this process for training: set the threads of torch and numpy, and keep freed memory.

    The number of threads determines the order in which floats are added, and so the exact weights. It is therefore
    stored with each job.

    Args:
        count: number of threads, at least 1; None: the default of torch and numpy.

    Returns:
        The number of threads of torch.
    """
    keep_freed_memory()
    if count is not None:
        torch.set_num_threads(count)
        threadpool_limits(count)
    return torch.get_num_threads()
