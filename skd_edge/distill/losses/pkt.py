"""Probabilistic knowledge transfer (PKT, 1803.10837): compares, for each sample, its similarities to all samples."""

from __future__ import annotations

import torch
from torch import Tensor

from skd_edge.distill.losses.precision import disable_autocast, promote_to_float32


def pkt_loss(a: Tensor, b: Tensor) -> Tensor:
    """``mean_i KL(p(.|i) || q(.|i))``; 0 where the neighbourhoods of all samples are equal.

    ``q(j|i)`` (learner) and ``p(j|i)`` (teacher) are proportional to ``(1 + cos(x_i, x_j)) / 2``. A positive scale of a
    sample has no effect. The authors' code also divides by N.

    Args:
        a: Features of N samples in the learner ``(N, C)``.
        b: Features of the same samples in the teacher ``(N, C')``, of any width; no gradient flows into them.
    """
    with disable_autocast(a):
        q, p = _neighbour_probabilities(promote_to_float32(a)), _neighbour_probabilities(promote_to_float32(b).detach())
        return (p * (p.log() - q.log())).sum(1).mean()


def _neighbour_probabilities(x: Tensor) -> Tensor:
    unit = x * (x.square().sum(1, keepdim=True) + 1e-12).rsqrt()
    similarity = torch.addmm(torch.ones((), dtype=x.dtype, device=x.device), unit, unit.mT).clamp(min=0) + 1e-6
    return similarity / similarity.sum(1, keepdim=True)
