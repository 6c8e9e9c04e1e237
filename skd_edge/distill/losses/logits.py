"""Knowledge distillation on the logits (1503.02531), standardised by default (2403.01427)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from skd_edge.distill.losses.precision import widened


def standardised(logits: Tensor) -> Tensor:
    """Logits ``(B, C)`` with zero mean and unit deviation in each row: the learner copies shape, not scale."""
    logits = widened(logits)
    centred = logits - logits.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 1e-7).sqrt()


def distil_logits(learner: Tensor, teacher: Tensor, *, temperature: float, standardise: bool = True) -> Tensor:
    """``T**2 * KL(softmax(teacher / T) || softmax(learner / T))``, mean over the batch; 0 where they agree.

    Args:
        learner: logits ``(B, C)``.
        teacher: logits ``(B, C)``, no gradient.
        temperature: T, above 0.
        standardise: compare standardised logits; the result is then unchanged by a positive scale of either.
    """
    if standardise:
        learner, teacher = standardised(learner), standardised(teacher)
    p = F.log_softmax(widened(teacher) / temperature, 1)
    q = F.log_softmax(widened(learner) / temperature, 1)
    return temperature**2 * F.kl_div(q, p, reduction="batchmean", log_target=True)
