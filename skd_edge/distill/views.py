"""The clips that a job trains on, and their augmented views as network input."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skd_bench.video.types import Preprocessing
from skd_edge.data.augmentation import augment_batch, choose_mixup_partners
from skd_edge.data.store.clip_store import ClipSplit
from skd_edge.distill.job import JobSpec


def training_rows(spec: JobSpec, clips: ClipSplit) -> NDArray[np.int64]:
    """Rows of the training clips that a job is trained on: all, or with a fold all except those held out."""
    rows = np.arange(len(clips))
    return rows if spec.fold is None else rows[assign_folds(clips.groups, spec.fold[1]) != spec.fold[0]]


def assign_folds(groups: NDArray[np.int64], fold_count: int) -> NDArray[np.int64]:
    """The fold ``(N,)`` of each clip, 0 to ``fold_count - 1``. Clips of one group share a fold; equal for every job."""
    distinct, member = np.unique(groups, return_inverse=True)
    fold_of_group = np.random.default_rng((len(distinct), fold_count)).permutation(len(distinct)) % fold_count
    return np.asarray(fold_of_group[member], np.int64)


def training_view(
    clips: ClipSplit, index: NDArray[np.int64], view: int, spec: JobSpec, preprocess: Preprocessing
) -> Tensor:
    """Training clips in one view, as network input.

    Args:
        clips: The training clips.
        index: ``(B,)`` rows of the clips.
        view: Number of the view, which determines the augmentation; -1 for the clips without augmentation.
        spec: The job, for its augmentation, mixup and fold.
        preprocess: How pixels become input.

    Returns:
        ``(B, 3, T, H, W)``; with mixup, each clip is mixed with a partner.
    """
    plain = augment_batch(clips.clips[index], clips.ids[index], view, spec.augment, preprocess)
    if not spec.augment.mixup or view < 0:
        return plain
    rows, share = choose_mixup_partners(clips.ids[index], training_rows(spec, clips), view, spec.augment.mixup)
    return torch.lerp(
        augment_batch(clips.clips[rows], clips.ids[rows], view, spec.augment, preprocess),
        plain,
        share.view(-1, 1, 1, 1, 1),
    )
