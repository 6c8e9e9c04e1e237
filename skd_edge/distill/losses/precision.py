"""In which precision losses are computed: at least float32, also where the network around them runs in half."""

from __future__ import annotations

import torch
from torch import Tensor


def promote_to_float32(x: Tensor) -> Tensor:
    """``x`` in at least float32: half precision loses what a loss measures, double precision is kept."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def disable_autocast(x: Tensor) -> torch.autocast:
    """A context in which matrix products keep the precision of their factors: a Gram matrix overflows float16."""
    return torch.autocast(x.device.type, enabled=False)
