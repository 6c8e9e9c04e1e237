"""DIST (2205.10536): the learner matches the relations between the teacher's probabilities, not their values.

Relations are compared by Pearson correlation: between the classes of a clip (inter) and between the clips of a class
(intra).
"""

from __future__ import annotations

import torch
from torch import Tensor

from skd_edge.distill.losses.kd import temperature_scaled_loss


def pearson_correlation(a: Tensor, b: Tensor, eps: float = 1e-12) -> Tensor:
    """Pearson correlation over the last dimension: ``(..., N)`` and ``(..., N)`` to ``(...)``, in [-1, 1].

    ``eps`` is added to the covariance and to both variances. If neither side varies (or N = 0), the correlation is
    therefore 1, since there is nothing to learn; if one side does not vary, it is about 0.
    """
    count = max(a.shape[-1], 1)
    a, b = a - a.sum(-1, keepdim=True) / count, b - b.sum(-1, keepdim=True) / count
    norms = (a.square().sum(-1) + eps).sqrt() * (b.square().sum(-1) + eps).sqrt()
    return ((a * b).sum(-1) + eps) / norms


def dist_loss(learner: Tensor, teacher: Tensor, *, temperature: float, beta: float = 1.0, gamma: float = 1.0) -> Tensor:
    """``T**2 * (beta * mean_b (1 - rho_b) + gamma * mean_c (1 - rho_c))``; 0 where the relations are equal.

    ``rho_b`` is the correlation of row b of ``softmax(learner / T)`` and ``softmax(teacher / T)``, ``rho_c`` that of
    column c.

    Args:
        learner: Logits ``(B, C)``.
        teacher: Logits ``(B, C)``; no gradient flows into them.
        temperature: T, above 0 (tau in the paper).
        beta: Weight of the relations between classes.
        gamma: Weight of the relations between clips; this part is 0 in a batch of one clip.
    """

    def relation_loss(ours: Tensor, theirs: Tensor) -> Tensor:
        p, q = torch.softmax(ours, 1), torch.softmax(theirs, 1)
        return beta * (1 - pearson_correlation(p, q)).mean() + gamma * (1 - pearson_correlation(p.T, q.T)).mean()

    return temperature_scaled_loss(relation_loss, learner, teacher, temperature)
