"""The loss on relations: which clips of a batch have similar features in the teacher should be similar in the learner.

Relations are compared at corresponding substages. Nearest published: similarity-preserving KD (1907.09682) and
correlation congruence (1904.01802); FSP's flow for the change between consecutive substages; DIST (2205.10536) for the
comparison by Pearson correlation. Relations do not depend on the width of the features, so no projector is needed.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from skd_edge.distill.losses.dist import pearson_correlation
from skd_edge.distill.losses.frames import align_frames
from skd_edge.distill.losses.precision import disable_autocast, promote_to_float32


def compute_relation_matrices(features: list[Tensor]) -> Tensor:
    """Cosine similarities between samples, after centring each channel over the samples.

    Args:
        features: For each of K substages, ``(..., N, C_k)``: N samples.

    Returns:
        ``(K, ..., N, N)``, in [-1, 1].
    """
    # The small Gram matrices are centred, which is cheaper than centring the features. The mean of the features is
    # subtracted first, without a gradient, only to keep rounding errors small.
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
        learner: Features of the substages that were computed, each ``(B, T, C_k)``.
        teacher: Features of the same substages, of any width and number of frames; no gradient flows into them.
        kind: ``gram``: mean squared difference of the relations between clips. ``pearson``: 1 minus the correlation of
            each clip's relations with the other clips (inter), plus the same for each frame's relations with the other
            frames of its clip (intra).

    Returns:
        A scalar. For each substage the difference of the relations, plus for each two consecutive substages the
        difference of the change between them; mean over substages. 0 where learner and teacher have equal relations.

    Raises:
        ValueError: Learner and teacher have different numbers of substages.
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
    """Squared difference of relations ``(K, B, B)``, and of their changes from one substage to the next."""
    gap = ours - theirs
    return (gap.square().sum() + gap.diff(dim=0).square().sum()) / gap.numel()


def _pearson_relation_loss(ours: Tensor, theirs: Tensor) -> Tensor:
    """1 - Pearson correlation of the rows of relations ``(K, ..., N, N)`` without diagonals, and of their changes."""
    ours, theirs = _drop_diagonal(ours), _drop_diagonal(theirs)
    distances = 1 - pearson_correlation(ours, theirs)
    step_distances = 1 - pearson_correlation(ours.diff(dim=0), theirs.diff(dim=0))
    return (distances.sum() + step_distances.sum()) / distances.numel()


def _drop_diagonal(x: Tensor) -> Tensor:
    """``(..., N, N)`` to ``(..., N, N - 1)``: the similarity of a sample with itself is always 1."""
    n = x.shape[-1]
    if n == 1:
        return x[..., :0]
    rest: Tensor = x.flatten(-2)[..., 1:].unflatten(-1, (n - 1, n + 1))
    return rest[..., :-1].reshape(*x.shape[:-1], n - 1)
