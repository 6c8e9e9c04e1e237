"""Maximum mean discrepancy of two samples. Nearest published: neuron selectivity transfer (NST, 1707.01219)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from skd_edge.distill.losses.precision import no_autocast, widened


def mmd(a: Tensor, b: Tensor, *, kernel: Literal["polynomial", "gaussian"] = "polynomial") -> Tensor:
    """``mean k(a, a') + mean k(b, b') - 2 mean k(a, b)``, mean over groups; 0 where the samples are the same.

    Args:
        a: samples ``(N, C)``, or ``(G, N, C)``: compared group by group.
        b: samples ``(N', C)`` or ``(G, N', C)``; nothing flows back into them.
        kernel: ``polynomial``: ``(<x, y> + 1)^2`` of samples of unit length (NST's has no 1 and so is blind to signs),
            unchanged by a positive scale. ``gaussian``: ``exp(-|x - y|^2 / 2 s^2)``, ``s^2`` the teacher's variance
            (all groups, summed over channels), unchanged by a common scale.
    """
    with no_autocast(a):
        a, b = widened(a), widened(b).detach()
        if kernel == "polynomial":
            a, b = _unit(a), _unit(b)
            return _mean_square(a, a) + _mean_square(b, b) - 2 * _mean_square(a, b)
        spread = 2 * b.flatten(0, -2).var(0, correction=0).sum() + 1e-6
        same = (torch.exp(-_squared_distance(x, x) / spread).mean() for x in (a, b))
        return sum(same, -2 * torch.exp(-_squared_distance(a, b) / spread).mean())


def _unit(x: Tensor) -> Tensor:
    return x * (x.square().sum(-1, keepdim=True) + 1e-12).rsqrt()


def _mean_square(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.mT + 1).square().mean()


def _squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """``(..., N, N')``; both centred on one point before they are squared, for the rounding."""
    centre = b.mean(-2, keepdim=True).detach()
    a, b = a - centre, b - centre
    squares = a.square().sum(-1).unsqueeze(-1) + b.square().sum(-1).unsqueeze(-2)
    return (squares - 2 * a @ b.mT).clamp(min=0)
