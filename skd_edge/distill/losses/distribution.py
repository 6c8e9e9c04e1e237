"""The loss on feature distributions: diagonal-Gaussian 2-Wasserstein distance of projected substage features.

Nearest published: WKD-F (2412.08139). Each substage's share is set by its own measured discrepancy, so that no
substage drowns the others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def gaussian_w2(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """Squared 2-Wasserstein distance of two diagonal Gaussians, per channel: ``mean (mu-mu')^2 + (sd-sd')^2``.

    Args:
        a: samples ``(N, C)``; mean and deviation are taken over N.
        b: samples ``(N', C)``.
        eps: keeps the square root differentiable at zero variance.

    Returns:
        A scalar, 0 where the moments agree; safe for one sample.
    """
    a, b = a.float(), b.float()
    spread = (a.var(0, correction=0) + eps).sqrt() - (b.var(0, correction=0) + eps).sqrt()
    return (a.mean(0) - b.mean(0)).square().mean() + spread.square().mean()


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
            scale = (
                theirs.float().std(correction=0) + 1e-6
            )  # the teacher's unit, so that widths and norms do not matter
            distances.append(self._distance(self.project[k](ours.float()) / scale, theirs.float() / scale))
        each = torch.stack(distances)
        if self.training:
            self._follow(each.detach())
        weight = 1 / self.discrepancy[: len(learner)].clamp(min=1e-4)
        return (each * weight / weight.mean()).mean()

    @staticmethod
    def _distance(ours: Tensor, theirs: Tensor) -> Tensor:
        """Clip-level moments ``(B, C)`` over frames compared clip by clip, plus the batch's own W2."""
        eps = 1e-6
        mean = (ours.mean(1) - theirs.mean(1)).square().mean()
        spread = (ours.var(1, correction=0) + eps).sqrt() - (theirs.var(1, correction=0) + eps).sqrt()
        return mean + spread.square().mean() + gaussian_w2(ours.flatten(0, 1), theirs.flatten(0, 1))

    def _follow(self, distances: Tensor) -> None:
        old = self.discrepancy[: len(distances)]
        old.copy_(torch.where(old == 0, distances, self.momentum * old + (1 - self.momentum) * distances))
