"""Losses, one file each: a plain function on tensors; each returns a scalar, mean over the batch.

Nothing flows back into what the teacher says. Losses are computed in at least float32.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from skd_edge.distill.losses.dist import dist
from skd_edge.distill.losses.dkd import dkd
from skd_edge.distill.losses.kd import kd, kd_standardised


class LogitLoss(Protocol):
    """How far the learner's logits ``(B, C)`` are from the teacher's, at a temperature above 0."""

    def __call__(self, learner: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
        """A scalar, mean over the batch, 0 at agreement."""
        ...


LOGIT_LOSSES: dict[str, LogitLoss] = {"kd": kd, "kd-standardised": kd_standardised, "dist": dist, "dkd": dkd}
