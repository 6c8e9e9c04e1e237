"""Brings features with different numbers of frames to the same number."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def align_frames(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``(B, T, C)`` and ``(B, T', C')`` at ``min(T, T')`` time steps each: segments of the longer one are averaged."""
    steps = min(a.shape[1], b.shape[1])
    return _average_segments(a, steps), _average_segments(b, steps)


def _average_segments(x: Tensor, steps: int) -> Tensor:
    return x if x.shape[1] == steps else F.adaptive_avg_pool1d(x.transpose(1, 2), steps).transpose(1, 2)
