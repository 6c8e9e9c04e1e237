"""The loss on feature distributions: diagonal-Gaussian 2-Wasserstein distance of projected substage features.

Nearest published: WKD-F (2412.08139). Each substage's share is set by its own measured discrepancy, so that no
substage drowns the others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skd_edge.distill.losses.precision import widened


def moments(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance over one dimension; far cheaper than ``var`` along an inner one."""
    mean = x.mean(dim)
    return mean, (x - mean.unsqueeze(dim)).square().mean(dim)


def moments_w2(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], eps: float = 1e-6) -> Tensor:
    """Squared 2-Wasserstein distance of diagonal Gaussians given as (mean, variance), mean over all channels.

    ``(mu - mu')^2 + (sd - sd')^2``; ``eps`` keeps the square root differentiable at zero variance.
    """
    spread = (a[1] + eps).sqrt() - (b[1] + eps).sqrt()
    return (a[0] - b[0]).square().mean() + spread.square().mean()


def gaussian_w2(a: Tensor, b: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance of the diagonal Gaussians fitted to two samples, mean over channels.

    Args:
        a: samples ``(N, C)``; mean and deviation are taken over N.
        b: samples ``(N', C)``.

    Returns:
        A scalar, 0 where the moments agree; safe for one sample.
    """
    return moments_w2(moments(widened(a), 0), moments(widened(b), 0))


class DistributionLoss(nn.Module):
    """Gaussian W2 between each substage's features of the learner, projected to the teacher's width, and the teacher's.

    The moments are taken within each clip (over its frames) and over the whole batch: the first says what a clip is,
    the second keeps the projected space in place. Projectors live in training only and are dropped at export.
    """

    def __init__(self, learner: tuple[int, ...], teacher: tuple[int, ...], momentum: float = 0.95) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(a, b) for a, b in zip(learner, teacher, strict=True))
        self.momentum = momentum
        self.discrepancy: Tensor
        self.register_buffer("discrepancy", torch.zeros(len(learner)))

    def forward(self, learner: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Weighted mean of the substages' distances; features ``(B, T, C_k)``, the weights' mean is 1."""
        distances = []
        for k, (ours, theirs) in enumerate(zip(learner, teacher, strict=True)):
            ours, theirs = widened(ours), widened(theirs)
            scale = theirs.std(correction=0) + 1e-6  # in the teacher's unit, widths and norms do not matter
            distances.append(self._distance(self.project[k](ours) / scale, theirs / scale))
        each = torch.stack(distances)
        if self.training:
            self._follow(each.detach())
        weight = 1 / self.discrepancy[: len(learner)].clamp(min=1e-4)
        return (each * weight / weight.mean()).mean()

    @staticmethod
    def _distance(ours: Tensor, theirs: Tensor) -> Tensor:
        """Moments over frames compared clip by clip, plus those of the whole batch (by the law of total variance)."""
        mine, goal = moments(ours, 1), moments(theirs, 1)
        return moments_w2(mine, goal) + moments_w2(_pooled(mine), _pooled(goal))

    def _follow(self, distances: Tensor) -> None:
        old = self.discrepancy[: len(distances)]
        old.copy_(torch.where(old == 0, distances, self.momentum * old + (1 - self.momentum) * distances))


def _pooled(each: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The moments ``(C,)`` of all clips together, from each clip's own ``(B, C)``."""
    mean, between = moments(each[0], 0)
    return mean, each[1].mean(0) + between
