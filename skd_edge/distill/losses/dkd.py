"""Decoupled knowledge distillation (DKD, 2203.08679).

The probability of the target class, and the distribution over the other classes, have separate weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skd_edge.distill.losses.kd import kl_divergence, temperature_scaled_loss


def dkd_loss(
    learner: Tensor,
    teacher: Tensor,
    *,
    temperature: float,
    target: Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """``T**2 * (alpha * KL(target or not) + beta * KL(among the others))``, mean over the batch; 0 at equality.

    Plain KD corresponds to ``alpha = 1`` and, as ``beta``, the teacher's probability of all other classes.

    Args:
        learner: Logits ``(B, C)``, C at least 2.
        teacher: Logits ``(B, C)``; no gradient flows into them.
        temperature: T, above 0.
        target: Class numbers ``(B,)``. If None, the teacher's top class, which does not depend on weak labels.
        alpha: Weight of the part on the target class.
        beta: Weight of the part on the other classes; 8 is the authors' default.
    """
    classes = learner.shape[1]
    chosen = (teacher.argmax(1) if target is None else target)[:, None]
    others = (chosen + torch.arange(1, classes, device=learner.device)) % classes

    def decoupled_loss(ours: Tensor, theirs: Tensor) -> Tensor:
        (a, a_rest), (b, b_rest) = ((z.gather(1, chosen), z.gather(1, others)) for z in (ours, theirs))
        binary = kl_divergence(_target_or_not_logits(a, a_rest), _target_or_not_logits(b, b_rest))
        return alpha * binary + beta * kl_divergence(a_rest, b_rest)

    return temperature_scaled_loss(decoupled_loss, learner, teacher, temperature)


def _target_or_not_logits(target: Tensor, others: Tensor) -> Tensor:
    """Logits ``(B, 2)`` of the target class, and of all other classes as one class."""
    return torch.cat([target, others.logsumexp(1, keepdim=True)], 1)
