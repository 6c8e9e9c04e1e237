"""The losses, one in each file: functions on tensors that return a scalar, the mean over the batch.

No gradient flows into the teacher outputs. All losses are computed in at least float32.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from skd_edge.distill.losses.dist import dist_loss
from skd_edge.distill.losses.dkd import dkd_loss
from skd_edge.distill.losses.kd import kd_loss, standardised_kd_loss


class LogitLoss(Protocol):
    """A distance between the logits ``(B, C)`` of learner and teacher, at a temperature above 0."""

    def __call__(self, learner: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
        """The distance, a scalar: mean over the batch, 0 where the logits are equal."""
        ...


# The keys are the values of ``training.losses.logits_kind`` in a recipe.
LOGIT_LOSSES: dict[str, LogitLoss] = {
    "kd": kd_loss,
    "kd-standardised": standardised_kd_loss,
    "dist": dist_loss,
    "dkd": dkd_loss,
}


def register_logit_loss(name: str, loss: LogitLoss) -> None:
    """Make a loss known under a name of ``logits_kind``, for a study that compares with losses of others.

    Raises:
        ValueError: Another loss has that name.
    """
    if name in LOGIT_LOSSES:
        raise ValueError(f"a loss called {name!r} is registered already; choose another name")
    LOGIT_LOSSES[name] = loss
