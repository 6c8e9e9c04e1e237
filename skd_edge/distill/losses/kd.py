"""Knowledge distillation on logits (1503.02531), with standardised logits as an option (2403.01427).

Also contains what the losses on logits share: temperature scaling and the Kullback-Leibler divergence.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from skd_edge.distill.losses.precision import promote_to_float32


def temperature_scaled_loss(
    loss: Callable[[Tensor, Tensor], Tensor], learner: Tensor, teacher: Tensor, temperature: float
) -> Tensor:
    """``T**2 * loss(learner / T, teacher / T)``. The factor keeps the size of the gradient independent of T.

    No loss applies the factor itself: this function does it for all of them.

    Args:
        loss: A function of two logits ``(B, C)`` that returns a scalar.
        learner: Logits ``(B, C)``.
        teacher: Logits ``(B, C)``; no gradient flows into them.
        temperature: T, above 0.
    """
    return temperature**2 * loss(
        promote_to_float32(learner) / temperature, promote_to_float32(teacher).detach() / temperature
    )


def kl_divergence(learner: Tensor, teacher: Tensor) -> Tensor:
    """``KL(softmax(teacher) || softmax(learner))`` of logits ``(B, C)``, mean over the batch; 0 if they are equal."""
    return F.kl_div(F.log_softmax(learner, 1), F.log_softmax(teacher, 1), reduction="batchmean", log_target=True)


def standardise_logits(logits: Tensor) -> Tensor:
    """Logits ``(B, C)`` with zero mean and unit standard deviation in each row."""
    logits = promote_to_float32(logits)
    centred = logits - logits.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 1e-7).sqrt()


def kd_loss(learner: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Plain distillation: ``T**2 * KL`` of logits ``(B, C)`` divided by T, mean over the batch."""
    return temperature_scaled_loss(kl_divergence, learner, teacher, temperature)


def standardised_kd_loss(learner: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """`kd_loss` of standardised logits: a shift or a positive scale of any row of either side does not change it."""
    return temperature_scaled_loss(kl_divergence, standardise_logits(learner), standardise_logits(teacher), temperature)
