"""The loss on feature distributions of corresponding substages, balanced over them.

What is compared stands in ``gaussian.py`` (the default), ``mmd.py`` and ``pkt.py``. Each substage's share is set by
its own measured discrepancy, so that no substage drowns the others.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from skd_edge.distill.losses.frames import align_frames
from skd_edge.distill.losses.mmd import mmd_loss
from skd_edge.distill.losses.pkt import pkt_loss
from skd_edge.distill.losses.precision import disable_autocast, promote_to_float32
from skd_edge.distill.losses.wasserstein import compute_moments, pool_moments, w2_by_channel

DistributionKind = Literal["gaussian", "mmd", "pkt"]
_CONSTANT_VARIANCE_SHARE = (
    1e-8  # the share of a substage's mean square up to which float32 cannot tell its variance from 0
)


class DistributionLoss(nn.Module):
    """Distance of each substage's features of the learner, projected to the teacher's width, and the teacher's.

    The distributions are those within each clip (over its frames) and of the whole batch: the first says what a clip
    is, the second keeps the projected space in place. Projectors live in training only and are dropped at export; PKT,
    which compares neighbourhoods of frames in the batch, needs none.

    Args:
        learner_widths: widths ``C_k`` of the learner's substages.
        teacher_widths: widths of the teacher's.
        momentum: of the running discrepancies that set the weights.
        kind: what is compared.
    """

    def __init__(
        self,
        learner_widths: tuple[int, ...],
        teacher_widths: tuple[int, ...],
        momentum: float = 0.95,
        *,
        kind: DistributionKind = "gaussian",
    ) -> None:
        super().__init__()
        pairs = list(zip(learner_widths, teacher_widths, strict=True))
        self.projectors = nn.ModuleList(nn.Linear(a, b) for a, b in pairs if kind != "pkt")
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
        with disable_autocast(learner[0]):
            pairs = [
                align_frames(promote_to_float32(a), promote_to_float32(b).detach())
                for a, b in zip(learner, teacher, strict=True)
            ]
            theirs = [b for _, b in pairs]
            if self.kind == "pkt":
                distances = torch.stack([pkt_loss(a.flatten(0, 1), b.flatten(0, 1)) for a, b in pairs])
            else:
                ours = [project(a) for project, (a, _) in zip(self.projectors, pairs, strict=False)]
                distances = gaussian_distances(ours, theirs) if self.kind == "gaussian" else mmd_distances(ours, theirs)
            if self.training:
                self._update_discrepancy(distances.detach())
            weight = (distances.detach() > 0) / self.discrepancy[: len(distances)].clamp(min=1e-4)
            return distances @ (weight / weight.sum().clamp(min=1e-12)).to(distances.dtype)

    def _update_discrepancy(self, distances: Tensor) -> None:
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
    learner_moments, teacher_moments = _frame_moments(ours), _frame_moments(theirs)
    pooled_learner, pooled_teacher = pool_moments(learner_moments), pool_moments(teacher_moments)
    substage_of_channel = torch.repeat_interleave(widths)  # the substage of each channel
    within = pooled_teacher[0] - _mean_by_substage(pooled_teacher[0], substage_of_channel, widths)[substage_of_channel]
    variance = _mean_by_substage(pooled_teacher[1] + within.square(), substage_of_channel, widths)
    constant = variance <= _CONSTANT_VARIANCE_SHARE * _mean_by_substage(
        pooled_teacher[1] + pooled_teacher[0].square(), substage_of_channel, widths
    )
    unit = torch.where(constant, 1.0, variance)[substage_of_channel]
    by_channel = w2_by_channel(learner_moments, teacher_moments, unit).mean(0) + w2_by_channel(
        pooled_learner, pooled_teacher, unit
    )
    return torch.where(constant, 0.0, _mean_by_substage(by_channel, substage_of_channel, widths))


def _frame_moments(features: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance over frames, ``(B, sum of C_k)``; substages may differ in the number of their frames."""
    if len({f.shape[1] for f in features}) == 1:
        return compute_moments(torch.cat(features, 2), 1)
    moments_by_substage = [compute_moments(f, 1) for f in features]
    return torch.cat([mean for mean, _ in moments_by_substage], 1), torch.cat(
        [variance for _, variance in moments_by_substage], 1
    )


def mmd_distances(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """MMD of the frames of each clip plus MMD of all frames of the batch, for each substage ``(K,)``."""
    return torch.stack(
        [mmd_loss(a, b) + mmd_loss(a.flatten(0, 1), b.flatten(0, 1)) for a, b in zip(ours, theirs, strict=True)]
    )


def _mean_by_substage(x: Tensor, substage_of_channel: Tensor, widths: Tensor) -> Tensor:
    """Mean over each substage's channels: ``(sum of C_k,)`` to ``(K,)``."""
    return x.new_zeros(len(widths)).index_add(0, substage_of_channel, x) / widths
