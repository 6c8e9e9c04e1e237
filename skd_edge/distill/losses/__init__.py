"""Losses, one file each: a plain function on tensors; each returns a scalar, mean over the batch.

Nothing flows back into what the teacher says. Losses are computed in at least float32.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from skd_edge.distill.losses.dist import dist_loss
from skd_edge.distill.losses.dkd import dkd_loss
from skd_edge.distill.losses.kd import kd_loss, standardised_kd_loss


class LogitLoss(Protocol):
    """How far the learner's logits ``(B, C)`` are from the teacher's, at a temperature above 0."""

    def __call__(self, learner: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
        """A scalar, mean over the batch, 0 at agreement."""
        ...


LOGIT_LOSSES: dict[str, LogitLoss] = {
    "kd": kd_loss,
    "kd-standardised": standardised_kd_loss,
    "dist": dist_loss,
    "dkd": dkd_loss,
}
