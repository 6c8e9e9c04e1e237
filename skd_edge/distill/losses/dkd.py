"""Decoupled knowledge distillation (DKD, 2203.08679): how sure of the target, and how the rest is shared out, apart."""

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
    """``T**2 * (alpha * KL(target or not) + beta * KL(among the others))``, mean over the batch; 0 at agreement.

    Plain KD is ``alpha = 1`` and, in the place of beta, the teacher's probability that it is not the target.

    Args:
        learner: logits ``(B, C)``, C at least 2.
        teacher: logits ``(B, C)``; nothing flows back into them.
        temperature: T, above 0.
        target: class numbers ``(B,)``; the teacher's own first choice where None, which weak labels do not spoil.
        alpha: weight of the target's part.
        beta: weight of the others' part; 8 is the authors' default.
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
    """Logits ``(B, 2)`` of the target and of all others taken as one class."""
    return torch.cat([target, others.logsumexp(1, keepdim=True)], 1)
