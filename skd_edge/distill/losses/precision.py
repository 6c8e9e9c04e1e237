"""In which precision losses are computed."""

from __future__ import annotations

import torch
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """``x`` in at least float32: half precision loses what a loss measures, double precision is kept."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
