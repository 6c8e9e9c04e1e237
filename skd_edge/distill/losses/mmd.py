"""Maximum mean discrepancy (MMD) of two samples. Nearest published: neuron selectivity transfer (NST, 1707.01219)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from skd_edge.distill.losses.precision import disable_autocast, promote_to_float32


def mmd_loss(a: Tensor, b: Tensor, *, kernel: Literal["polynomial", "gaussian"] = "polynomial") -> Tensor:
    """``mean k(a, a') + mean k(b, b') - 2 mean k(a, b)``, mean over groups; 0 where the samples are equal.

    Args:
        a: Samples of the learner ``(N, C)``, or ``(G, N, C)`` to compare group by group.
        b: Samples of the teacher ``(N', C)`` or ``(G, N', C)``; no gradient flows into them.
        kernel: ``polynomial``: ``(<x, y> + 1)^2`` of samples scaled to unit length, so a positive scale of a sample has
            no effect. NST's kernel lacks the 1 and does not distinguish x from -x. ``gaussian``:
            ``exp(-|x - y|^2 / 2 s^2)``, where ``s^2`` is the variance of ``b`` over all groups, summed over channels;
            a common scale of both sides has no effect.
    """
    with disable_autocast(a):
        a, b = promote_to_float32(a), promote_to_float32(b).detach()
        if kernel == "polynomial":
            a, b = _scale_to_unit_length(a), _scale_to_unit_length(b)
            return _mean_polynomial_kernel(a, a) + _mean_polynomial_kernel(b, b) - 2 * _mean_polynomial_kernel(a, b)
        bandwidth = 2 * b.flatten(0, -2).var(0, correction=0).sum() + 1e-6
        self_similarities = (torch.exp(-_squared_distance(x, x) / bandwidth).mean() for x in (a, b))
        return sum(self_similarities, -2 * torch.exp(-_squared_distance(a, b) / bandwidth).mean())


def _scale_to_unit_length(x: Tensor) -> Tensor:
    return x * (x.square().sum(-1, keepdim=True) + 1e-12).rsqrt()


def _mean_polynomial_kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.mT + 1).square().mean()


def _squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """``(..., N, N')``; both sides are centred on one point first, to keep rounding errors small."""
    centre = b.mean(-2, keepdim=True).detach()
    a, b = a - centre, b - centre
    squares = a.square().sum(-1).unsqueeze(-1) + b.square().sum(-1).unsqueeze(-2)
    return (squares - 2 * a @ b.mT).clamp(min=0)
