"""DIST (2205.10536): the learner keeps the relations of the teacher's probabilities, not their values.

Pearson's correlation, of the classes within a clip (inter) and of the clips within a class (intra).
"""

from __future__ import annotations

import torch
from torch import Tensor

from skd_edge.distill.losses.kd import temperature_scaled_loss


def pearson_correlation(a: Tensor, b: Tensor, eps: float = 1e-12) -> Tensor:
    """Pearson's correlation over the last dimension, in [-1, 1]; ``(..., N)`` and ``(..., N)`` to ``(...)``.

    ``eps`` is an agreement that every pair has: with no variance on both sides (or N = 0) the correlation is 1, there
    is no relation to learn; with none on one side it is about 0.
    """
    count = max(a.shape[-1], 1)
    a, b = a - a.sum(-1, keepdim=True) / count, b - b.sum(-1, keepdim=True) / count
    norms = (a.square().sum(-1) + eps).sqrt() * (b.square().sum(-1) + eps).sqrt()
    return ((a * b).sum(-1) + eps) / norms


def dist_loss(learner: Tensor, teacher: Tensor, *, temperature: float, beta: float = 1.0, gamma: float = 1.0) -> Tensor:
    """``T**2 * (beta * mean_b (1 - rho_b) + gamma * mean_c (1 - rho_c))``; 0 where the relations are the same.

    ``rho_b`` correlates the rows of ``softmax(learner / T)`` and ``softmax(teacher / T)``, ``rho_c`` their columns.

    Args:
        learner: logits ``(B, C)``.
        teacher: logits ``(B, C)``; nothing flows back into them.
        temperature: T, above 0 (tau in the paper).
        beta: weight of the relations between classes.
        gamma: weight of the relations between clips; no relation in a batch of one.
    """

    def relation_loss(ours: Tensor, theirs: Tensor) -> Tensor:
        p, q = torch.softmax(ours, 1), torch.softmax(theirs, 1)
        return beta * (1 - pearson_correlation(p, q)).mean() + gamma * (1 - pearson_correlation(p.T, q.T)).mean()

    return temperature_scaled_loss(relation_loss, learner, teacher, temperature)
