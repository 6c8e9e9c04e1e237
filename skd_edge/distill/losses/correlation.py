"""Correlation of corresponding substages: who resembles whom in the batch, by the teacher and by the learner.

Nearest published: similarity-preserving KD (1907.09682) and correlation congruence (1904.01802); between consecutive
substages, FSP's flow. No projector is needed, so it works across widths and kinds of networks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from skd_edge.distill.losses.precision import widened


def relation(features: Tensor) -> Tensor:
    """Cosine Gram matrix ``(B, B)`` of pooled features ``(B, T, C)``, each channel centred over the batch."""
    flat = widened(features).flatten(1)
    unit = F.normalize(flat - flat.mean(0, keepdim=True), dim=1, eps=1e-6)
    return unit @ unit.T


def correlate(learner: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Mean squared difference of the relation matrices of corresponding and of consecutive substages.

    Args:
        learner: features of the substages that ran, each ``(B, T, C_k)``.
        teacher: features of the same substages, any widths, no gradient.

    Returns:
        For each substage the difference of the relations, plus for each pair of neighbours the difference of how the
        relation changes between them; mean over substages. 0 where learner and teacher relate clips alike.
    """
    ours, theirs = [relation(f) for f in learner], [relation(f) for f in teacher]
    same = [F.mse_loss(a, b) for a, b in zip(ours, theirs, strict=True)]
    steps = [F.mse_loss(ours[k + 1] - ours[k], theirs[k + 1] - theirs[k]) for k in range(len(ours) - 1)]
    return torch.stack(same + steps).sum() / len(same)
