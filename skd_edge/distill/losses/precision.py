"""Precision of the losses: at least float32, even where the network runs in half precision."""

from __future__ import annotations

import torch
from torch import Tensor


def promote_to_float32(x: Tensor) -> Tensor:
    """``x`` in at least float32, since half precision is too coarse for the differences that a loss measures."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def disable_autocast(x: Tensor) -> torch.autocast:
    """A context without autocast, so that matrix products are not computed in float16, where Gram matrices overflow."""
    return torch.autocast(x.device.type, enabled=False)
