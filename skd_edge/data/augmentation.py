"""Views: deterministic augmentations of a batch of clips.

A view is a pure function of the clip's id and the number of the view. Teacher and student therefore get the same
pixels, and teacher outputs for a view can be stored and reused.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skd_bench.video.clip import normalise
from skd_bench.video.types import Preprocessing
from skd_edge.recipe.sections import AugmentationSettings


def _draw_uniform(ids: NDArray[np.int64], view: int, draws: int) -> NDArray[np.float32]:
    """Counter-based random numbers ``(B, draws)`` in [0, 1): splitmix64 of (clip id, view, draw)."""
    with np.errstate(over="ignore"):
        z = ids.astype(np.uint64)[:, None] * np.uint64(0x9E3779B97F4A7C15)
        z = z + np.uint64(view + 1) * np.uint64(0xD1B54A32D192ED03)
        z = z + np.arange(1, draws + 1, dtype=np.uint64) * np.uint64(0x8CB92BA72F3D8DD7)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(40)).astype(np.float64) / 2**24).astype(np.float32)


def _shift_clips(clips: NDArray[np.uint8], dy: NDArray[np.int64], dx: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Translate each clip of ``(B, T, H, W, 3)`` by ``dy, dx (B,)`` pixels; the uncovered border repeats the edge."""
    out = np.empty_like(clips)
    _, _, height, width, _ = clips.shape
    dy, dx = dy.clip(1 - height, height - 1), dx.clip(1 - width, width - 1)  # a larger shift shows only the edge
    for here, clip, y, x in zip(out, clips, dy.tolist(), dx.tolist(), strict=True):
        top, bottom, left, right = max(-y, 0), height - max(y, 0), max(-x, 0), width - max(x, 0)
        here[:, top:bottom, left:right] = clip[:, top + y : bottom + y, left + x : right + x]
        here[:, top:bottom, :left] = here[:, top:bottom, left : left + 1]
        here[:, top:bottom, right:] = here[:, top:bottom, right - 1 : right]
        here[:, :top] = here[:, top : top + 1]
        here[:, bottom:] = here[:, bottom - 1 : bottom]
    return out


def augment_batch(
    clips: NDArray[np.uint8],
    ids: NDArray[np.int64],
    view: int,
    augment: AugmentationSettings,
    preprocess: Preprocessing,
) -> Tensor:
    """Make one view of a batch of clips, as input for the networks.

    Args:
        clips: stored clips ``(B, T, H, W, 3)`` uint8; they are not changed.
        ids: clip ids ``(B,)``, which seed the random numbers.
        view: number of the view; a negative number gives the clip without augmentation, as on the device.
        augment: the augmentations of the recipe: shift in pixels, brightness, contrast, flip.
        preprocess: mean and standard deviation to normalise with.

    Returns:
        ``(B, 3, T, H, W)`` float32.
    """
    if view < 0:
        return torch.from_numpy(normalise(clips, preprocess))
    u = _draw_uniform(ids, view, 5)
    if augment.shift:
        offsets = np.floor(u[:, :2] * (2 * augment.shift + 1)).astype(np.int64) - augment.shift
        clips = _shift_clips(clips, offsets[:, 0], offsets[:, 1])
    x = torch.from_numpy(normalise(clips, preprocess))
    if augment.flip:
        flip = torch.from_numpy(u[:, 4] < 0.5)
        x[flip] = x[flip].flip(-1)
    gain = torch.from_numpy(1 + augment.contrast * (2 * u[:, 2] - 1)).view(-1, 1, 1, 1, 1)
    offset = torch.from_numpy(augment.brightness * (2 * u[:, 3] - 1)).view(-1, 1, 1, 1, 1)
    unit = torch.tensor(preprocess.std).view(1, 3, 1, 1, 1)  # brightness is a share of full white, before normalisation
    return x.mul_(gain).add_(offset / unit)


def choose_mixup_partners(
    ids: NDArray[np.int64], rows: NDArray[np.int64], view: int, mixup: float
) -> tuple[NDArray[np.int64], Tensor]:
    """Choose the partner that each clip is mixed with in a view (mixup, arXiv 1710.09412), and the clip's own share.

    Args:
        ids: clip ids ``(B,)``, which seed the random numbers.
        rows: row numbers of the clips to choose from.
        view: number of the view.
        mixup: the parameter of the Beta distribution, above 0.

    Returns:
        Row numbers ``(B,)`` of the partners, and each clip's own share ``(B,)`` in [0.5, 1].
    """
    from scipy.special import betaincinv

    u = _draw_uniform(ids, view, 7)
    share = betaincinv(mixup, mixup, u[:, 5].astype(np.float64))
    chosen = rows[np.minimum((u[:, 6] * len(rows)).astype(np.int64), len(rows) - 1)]
    return chosen, torch.from_numpy(np.maximum(share, 1 - share).astype(np.float32))


def preprocess_batch(clips: NDArray[np.uint8], preprocess: Preprocessing) -> Tensor:
    """Normalise clips without augmentation, as on the device.

    Args:
        clips: ``(B, T, H, W, 3)`` uint8.
        preprocess: mean and standard deviation.

    Returns:
        ``(B, 3, T, H, W)`` float32.
    """
    return torch.from_numpy(normalise(clips, preprocess))
