"""The loss on feature distributions of corresponding substages, balanced over them.

What is compared stands in ``gaussian.py`` (the default), ``mmd.py`` and ``pkt.py``. Each substage's share is set by
its own measured discrepancy, so that no substage drowns the others.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from skd_edge.distill.losses.frames import aligned
from skd_edge.distill.losses.mmd import mmd
from skd_edge.distill.losses.pkt import pkt
from skd_edge.distill.losses.precision import no_autocast, widened
from skd_edge.distill.losses.wasserstein import moments, pooled, w2_by_channel

Kind = Literal["gaussian", "mmd", "pkt"]
_CONSTANT = 1e-8  # the share of a substage's mean square up to which float32 cannot tell its variance from 0


class DistributionLoss(nn.Module):
    """Distance of each substage's features of the learner, projected to the teacher's width, and the teacher's.

    The distributions are those within each clip (over its frames) and of the whole batch: the first says what a clip
    is, the second keeps the projected space in place. Projectors live in training only and are dropped at export; PKT,
    which compares neighbourhoods of frames in the batch, needs none.

    Args:
        learner: widths ``C_k`` of the learner's substages.
        teacher: widths of the teacher's.
        momentum: of the running discrepancies that set the weights.
        kind: what is compared.
    """

    def __init__(
        self,
        learner: tuple[int, ...],
        teacher: tuple[int, ...],
        momentum: float = 0.95,
        *,
        kind: Kind = "gaussian",
    ) -> None:
        super().__init__()
        pairs = list(zip(learner, teacher, strict=True))
        self.project = nn.ModuleList(nn.Linear(a, b) for a, b in pairs if kind != "pkt")
        self.momentum, self.kind = momentum, kind
        self.discrepancy: Tensor
        self.register_buffer("discrepancy", torch.zeros(len(pairs)))

    def forward(self, learner: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Weighted mean of the substages' distances, the weights' mean is 1.

        Args:
            learner: features of the substages that ran, each ``(B, T, C_k)``.
            teacher: those of the same substages ``(B, T', C'_k)``; nothing flows back into them.

        Raises:
            ValueError: Not the same number of substages.
        """
        with no_autocast(learner[0]):
            pairs = [aligned(widened(a), widened(b).detach()) for a, b in zip(learner, teacher, strict=True)]
            theirs = [b for _, b in pairs]
            if self.kind == "pkt":
                each = torch.stack([pkt(a.flatten(0, 1), b.flatten(0, 1)) for a, b in pairs])
            else:
                ours = [project(a) for project, (a, _) in zip(self.project, pairs, strict=False)]
                each = gaussian_distances(ours, theirs) if self.kind == "gaussian" else mmd_distances(ours, theirs)
            if self.training:
                self._follow(each.detach())
            weight = (each.detach() > 0) / self.discrepancy[: len(each)].clamp(min=1e-4)
            return each @ (weight / weight.sum().clamp(min=1e-12)).to(each.dtype)

    def _follow(self, distances: Tensor) -> None:
        old = self.discrepancy[: len(distances)]
        old.copy_(torch.where(old == 0, distances, torch.lerp(distances.to(old.dtype), old, self.momentum)))


def gaussian_distances(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """W2 clip by clip plus W2 of the whole batch, for each substage ``(K,)``, in the teacher's unit.

    All substages lie side by side along the channels, so that each step is one operation. The unit is the variance of
    all numbers of the teacher's substage: widths and norms do not matter. A substage that is constant (dead, or a
    saturated one) has no unit and nothing to say: 0, with no gradient.

    Args:
        ours: features at the teacher's widths, each ``(B, T, C_k)``.
        theirs: the teacher's.
    """
    widths = torch.tensor([f.shape[2] for f in theirs], device=theirs[0].device)
    mine, goal = _moments(ours), _moments(theirs)
    all_mine, all_goal = pooled(mine), pooled(goal)
    owner = torch.repeat_interleave(widths)  # the substage of each channel
    within = all_goal[0] - _each_mean(all_goal[0], owner, widths)[owner]
    variance = _each_mean(all_goal[1] + within.square(), owner, widths)
    constant = variance <= _CONSTANT * _each_mean(all_goal[1] + all_goal[0].square(), owner, widths)
    unit = torch.where(constant, 1.0, variance)[owner]
    by_channel = w2_by_channel(mine, goal, unit).mean(0) + w2_by_channel(all_mine, all_goal, unit)
    return torch.where(constant, 0.0, _each_mean(by_channel, owner, widths))


def _moments(features: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance over frames, ``(B, sum of C_k)``; substages may differ in the number of their frames."""
    if len({f.shape[1] for f in features}) == 1:
        return moments(torch.cat(features, 2), 1)
    each = [moments(f, 1) for f in features]
    return torch.cat([mean for mean, _ in each], 1), torch.cat([variance for _, variance in each], 1)


def mmd_distances(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """MMD of the frames of each clip plus MMD of all frames of the batch, for each substage ``(K,)``."""
    return torch.stack([mmd(a, b) + mmd(a.flatten(0, 1), b.flatten(0, 1)) for a, b in zip(ours, theirs, strict=True)])


def _each_mean(x: Tensor, owner: Tensor, widths: Tensor) -> Tensor:
    """Mean over each substage's channels: ``(sum of C_k,)`` to ``(K,)``."""
    return x.new_zeros(len(widths)).index_add(0, owner, x) / widths
