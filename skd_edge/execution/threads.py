"""How many threads train a job."""

from __future__ import annotations

import torch
from threadpoolctl import threadpool_limits

from skd_edge.execution.allocator import keep_freed_memory


def configure_threads(count: int | None) -> int:
    """Make this process ready to train: threads of torch and of the linear algebra behind numpy; returns torch's.

    Freed memory is kept for the next step.
    The number of threads decides the order in which floats are added, so it is part of how a job was made, and is
    written beside it.
    """
    keep_freed_memory()
    if count is not None:
        torch.set_num_threads(count)
        threadpool_limits(count)
    return torch.get_num_threads()
