"""The loss on feature distributions of corresponding substages, with a weight for each substage.

Three distances are available: Gaussian (``wasserstein.py``, the default), MMD (``mmd.py``) and PKT (``pkt.py``). The
weight of a substage is inverse to its measured discrepancy, so that a substage with a large distance does not dominate.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from skd_edge.distill.losses.frames import align_frames
from skd_edge.distill.losses.mmd import mmd_loss
from skd_edge.distill.losses.pkt import pkt_loss
from skd_edge.distill.losses.precision import disable_autocast, promote_to_float32
from skd_edge.distill.losses.wasserstein import compute_moments, pool_moments, w2_by_channel

DistributionKind = Literal["gaussian", "mmd", "pkt"]
# A variance below this share of the mean square cannot be distinguished from 0 in float32.
_CONSTANT_VARIANCE_SHARE = 1e-8


class DistributionLoss(nn.Module):
    """Distance between the features of learner and teacher, after projecting the learner's to the teacher's width.

    Two distributions are compared at each substage: that of the frames of each clip, which describes the clip, and that
    of all frames of the batch, which determines the position of the projected space. The projectors exist during
    training only and are not exported. PKT compares neighbourhoods of frames in the batch and has no projectors.

    Args:
        learner_widths: Widths ``C_k`` of the learner's substages.
        teacher_widths: Widths ``C'_k`` of the teacher's substages.
        momentum: Momentum of the running discrepancies that determine the weights, 0..1.
        kind: The distance.

    Raises:
        ValueError: Learner and teacher have different numbers of substages.
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
        """Weighted mean of the distances of the substages, a scalar.

        Args:
            learner: Features of the substages that were computed, each ``(B, T, C_k)``.
            teacher: Features of the same substages ``(B, T', C'_k)``; no gradient flows into them.

        Raises:
            ValueError: Learner and teacher have different numbers of substages.
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
            # A distance of exactly 0 (a constant substage of the teacher) gets no weight.
            weight = (distances.detach() > 0) / self.discrepancy[: len(distances)].clamp(min=1e-4)
            return distances @ (weight / weight.sum().clamp(min=1e-12)).to(distances.dtype)

    def _update_discrepancy(self, distances: Tensor) -> None:
        old = self.discrepancy[: len(distances)]
        old.copy_(torch.where(old == 0, distances, torch.lerp(distances.to(old.dtype), old, self.momentum)))


# By kind; a study may register further ones.
DISTRIBUTION_LOSSES: dict[str, type[DistributionLoss]] = dict.fromkeys(get_args(DistributionKind), DistributionLoss)


def register_distribution_loss(kind: str, loss: type[DistributionLoss]) -> None:
    """Make a distance of feature distributions known under a name of ``distribution_kind``.

    Raises:
        ValueError: Another one has that name.
    """
    if kind in DISTRIBUTION_LOSSES:
        raise ValueError(f"a distribution loss called {kind!r} is registered already; choose another name")
    DISTRIBUTION_LOSSES[kind] = loss


def make_distribution_loss(
    kind: DistributionKind, learner_widths: tuple[int, ...], teacher_widths: tuple[int, ...]
) -> DistributionLoss:
    """The loss of a kind, see `DistributionLoss`.

    Raises:
        KeyError: The kind is unknown.
        ValueError: Learner and teacher have different numbers of substages.
    """
    return DISTRIBUTION_LOSSES[kind](learner_widths, teacher_widths, kind=kind)


def gaussian_distances(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """Mean W2 distance of the clips plus the W2 distance of the whole batch, for each substage.

    Distances are divided by the variance of all values of the teacher's substage, so that widths and norms do not
    matter. If that variance is 0 (a dead or saturated substage), the distance is 0 and has no gradient.

    Args:
        ours: The learner's features, projected to the teacher's widths, each ``(B, T, C_k)``.
        theirs: The teacher's features, each ``(B, T', C_k)``.

    Returns:
        ``(K,)``.
    """
    # All substages are concatenated along the channels, so that each step is one operation for all of them.
    widths = torch.tensor([f.shape[2] for f in theirs], device=theirs[0].device)
    learner_moments, teacher_moments = _frame_moments(ours), _frame_moments(theirs)
    pooled_learner, pooled_teacher = pool_moments(learner_moments), pool_moments(teacher_moments)
    substage_of_channel = torch.repeat_interleave(widths)
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
    """Mean and variance over frames, ``(B, sum of C_k)`` each; substages may have different numbers of frames."""
    if len({f.shape[1] for f in features}) == 1:
        return compute_moments(torch.cat(features, 2), 1)
    moments_by_substage = [compute_moments(f, 1) for f in features]
    return torch.cat([mean for mean, _ in moments_by_substage], 1), torch.cat(
        [variance for _, variance in moments_by_substage], 1
    )


def mmd_distances(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """MMD of the frames of each clip, plus MMD of all frames of the batch, for each substage: ``(K,)``."""
    return torch.stack(
        [mmd_loss(a, b) + mmd_loss(a.flatten(0, 1), b.flatten(0, 1)) for a, b in zip(ours, theirs, strict=True)]
    )


def _mean_by_substage(x: Tensor, substage_of_channel: Tensor, widths: Tensor) -> Tensor:
    """Mean over the channels of each substage: ``(sum of C_k,)`` to ``(K,)``."""
    return x.new_zeros(len(widths)).index_add(0, substage_of_channel, x) / widths
