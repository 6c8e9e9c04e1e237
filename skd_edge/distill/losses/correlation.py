"""Correlation of corresponding substages: who resembles whom in the batch, by the teacher and by the learner.

Nearest published: similarity-preserving KD (1907.09682) and correlation congruence (1904.01802); between consecutive
substages, FSP's flow; DIST (2205.10536) where Pearson compares. No projector is needed, so it works across widths and
kinds of networks.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from skd_edge.distill.losses.dist import pearson_correlation
from skd_edge.distill.losses.frames import align_frames
from skd_edge.distill.losses.precision import disable_autocast, promote_to_float32


def compute_relation_matrices(features: list[Tensor]) -> Tensor:
    """Cosine Gram matrices ``(K, ..., N, N)`` of ``K x (..., N, C_k)``, each channel centred over the N.

    The centring is done on the small Gram matrices; taking the mean off the features before, without a gradient, is
    for the rounding alone.
    """
    centred = [f - f.detach().mean(-2, keepdim=True) for f in features]
    gram = torch.stack([f @ f.mT for f in centred])
    gram = gram - gram.mean(-1, keepdim=True)
    gram = gram - gram.mean(-2, keepdim=True)
    norms = (gram.diagonal(dim1=-2, dim2=-1).clamp(min=0) + 1e-12).sqrt()
    return gram / (norms.unsqueeze(-1) * norms.unsqueeze(-2))


def correlation_loss(
    learner: list[Tensor], teacher: list[Tensor], *, kind: Literal["gram", "pearson"] = "gram"
) -> Tensor:
    """Difference of the relation matrices of corresponding and of consecutive substages.

    Args:
        learner: features of the substages that ran, each ``(B, T, C_k)``.
        teacher: features of the same substages, any widths and numbers of frames; nothing flows back into them.
        kind: ``gram``: mean squared difference of the relations between clips. ``pearson``: 1 minus the correlation
            of each clip's relations to the others (inter), plus that of each frame's to the others of its clip (intra).

    Returns:
        For each substage the difference of the relations, plus for each pair of neighbours the difference of how the
        relation changes between them; mean over substages. 0 where learner and teacher relate clips alike.

    Raises:
        ValueError: Not the same number of substages.
    """
    with disable_autocast(learner[0]):
        pairs = [
            align_frames(promote_to_float32(a), promote_to_float32(b).detach())
            for a, b in zip(learner, teacher, strict=True)
        ]
        ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
        clip_relations = (compute_relation_matrices([f.flatten(1) for f in side]) for side in (ours, theirs))
        if kind == "gram":
            return _squared_relation_loss(*clip_relations)
        return _pearson_relation_loss(*clip_relations) + _pearson_relation_loss(
            compute_relation_matrices(ours), compute_relation_matrices(theirs)
        )


def _squared_relation_loss(ours: Tensor, theirs: Tensor) -> Tensor:
    """Squared difference of relations ``(K, B, B)`` and of their changes from substage to substage."""
    gap = ours - theirs
    return (gap.square().sum() + gap.diff(dim=0).square().sum()) / gap.numel()


def _pearson_relation_loss(ours: Tensor, theirs: Tensor) -> Tensor:
    """1 - Pearson of the rows of relations ``(K, ..., N, N)`` without their diagonals, and of their changes."""
    ours, theirs = _drop_diagonal(ours), _drop_diagonal(theirs)
    distances = 1 - pearson_correlation(ours, theirs)
    step_distances = 1 - pearson_correlation(ours.diff(dim=0), theirs.diff(dim=0))
    return (distances.sum() + step_distances.sum()) / distances.numel()


def _drop_diagonal(x: Tensor) -> Tensor:
    """``(..., N, N)`` to ``(..., N, N - 1)``: that everything resembles itself says nothing."""
    n = x.shape[-1]
    if n == 1:
        return x[..., :0]
    rest: Tensor = x.flatten(-2)[..., 1:].unflatten(-1, (n - 1, n + 1))
    return rest[..., :-1].reshape(*x.shape[:-1], n - 1)
