"""Probabilistic knowledge transfer (PKT, 1803.10837): whom each sample would pick as its neighbour."""

from __future__ import annotations

import torch
from torch import Tensor

from skd_edge.distill.losses.precision import disable_autocast, promote_to_float32


def pkt_loss(a: Tensor, b: Tensor) -> Tensor:
    """``mean_i KL(p(.|i) || q(.|i))``, 0 where the neighbourhoods agree; no projector, so widths may differ.

    ``q(j|i)`` and ``p(j|i)`` are proportional to ``(1 + cos(x_i, x_j)) / 2`` of learner and teacher. (The authors'
    code also divides by N.) Unchanged by a positive scale of any sample.

    Args:
        a: samples ``(N, C)``.
        b: the same samples as the teacher sees them ``(N, C')``; nothing flows back into them.
    """
    with disable_autocast(a):
        q, p = _neighbour_probabilities(promote_to_float32(a)), _neighbour_probabilities(promote_to_float32(b).detach())
        return (p * (p.log() - q.log())).sum(1).mean()


def _neighbour_probabilities(x: Tensor) -> Tensor:
    unit = x * (x.square().sum(1, keepdim=True) + 1e-12).rsqrt()
    similarity = torch.addmm(torch.ones((), dtype=x.dtype, device=x.device), unit, unit.mT).clamp(min=0) + 1e-6
    return similarity / similarity.sum(1, keepdim=True)
