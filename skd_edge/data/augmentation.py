"""Views: deterministic augmentations of a batch of clips.

A view is a pure function of the clip's id and the number of the view. Teacher and student therefore get the same
pixels, and teacher outputs for a view can be stored and reused.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from skd_bench.video.clip import normalise
from skd_bench.video.types import Preprocessing
from skd_edge.recipe.sections import AugmentationSettings

_BRIGHTNESS = np.asarray((0.299, 0.587, 0.114), np.float32)  # share of red, green and blue (ITU-R BT.601)


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


def _crop_time(clips: NDArray[np.uint8], share: NDArray[np.float32], place: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A part of each clip of ``(B, T, H, W, 3)``, stretched to T frames by repeating the nearest ones, in their order.

    Args:
        clips: The clips.
        share: ``(B,)`` length of the part, as a share of the clip, above 0.
        place: ``(B,)`` where the part lies: 0 at the start of the clip, 1 at its end.
    """
    count = clips.shape[1]
    positions = (1 - share[:, None]) * place[:, None] + share[:, None] * (np.arange(count) + 0.5) / count
    frames = np.minimum((positions * count).astype(np.int64), count - 1)
    return np.asarray(clips[np.arange(len(clips))[:, None], frames])


def _crop_and_enlarge(x: Tensor, share: NDArray[np.float32], places: NDArray[np.float32]) -> Tensor:
    """A part of each frame of ``(B, 3, T, H, W)``, enlarged to the whole frame (bilinear); the same for all frames.

    Args:
        x: The clips.
        share: ``(B,)`` side of the part, as a share of the frame's, above 0.
        places: ``(B, 2)`` where the part lies vertically and horizontally: 0 at one edge, 1 at the other.
    """
    batch, channels, count, height, width = x.shape
    rows, columns = (
        share[:, None] * ((2 * np.arange(size, dtype=np.float32) + 1) / size - 1)
        + ((1 - share) * (2 * places[:, axis] - 1))[:, None]
        for axis, size in enumerate((height, width))
    )
    grid = np.empty((batch, height, width, 2), np.float32)
    grid[..., 0], grid[..., 1] = columns[:, None, :], rows[:, :, None]
    flat = x.view(batch, channels * count, height, width)  # one grid for all frames of a clip
    parts = grid_sample(flat, torch.from_numpy(grid), padding_mode="border", align_corners=False)
    return parts.view(x.shape)


def _change_saturation(x: Tensor, factor: NDArray[np.float32], preprocess: Preprocessing) -> Tensor:
    """Move the colours of ``(B, 3, T, H, W)`` away from grey of the same brightness, or towards it.

    Args:
        x: The clips, normalised; they are changed.
        factor: ``(B,)`` 0: grey, 1: unchanged, 2: twice as colourful.
        preprocess: Mean and standard deviation that ``x`` was normalised with.
    """
    mean, std = (np.asarray(values, np.float32) for values in (preprocess.mean, preprocess.std))
    red, green, blue = (_BRIGHTNESS * std).tolist()
    brightness = (
        (x[:, :1] * red).add_(x[:, 1:2], alpha=green).add_(x[:, 2:], alpha=blue).add_(float(_BRIGHTNESS @ mean))
    )
    grey = torch.from_numpy((1 - factor[:, None]) / std).view(-1, 3, 1, 1, 1)
    colour = torch.from_numpy(factor).view(-1, 1, 1, 1, 1)
    return x.mul_(colour).addcmul_(brightness, grey).sub_(grey * torch.from_numpy(mean).view(1, 3, 1, 1, 1))


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
        augment: the augmentations of the recipe.
        preprocess: mean and standard deviation to normalise with.

    Returns:
        ``(B, 3, T, H, W)`` float32.
    """
    if view < 0:
        return torch.from_numpy(normalise(clips, preprocess))
    u = _draw_uniform(ids, view, 14)  # of these, 5 and 6 are those of `choose_mixup_partners`
    if augment.time:
        clips = _crop_time(clips, 1 - augment.time * u[:, 10], u[:, 11])
    if augment.reverse:
        backwards = u[:, 13] < 0.5
        frames = np.arange(clips.shape[1])
        clips = clips[np.arange(len(clips))[:, None], np.where(backwards[:, None], frames[::-1], frames)]
    if augment.shift:
        offsets = np.floor(u[:, :2] * (2 * augment.shift + 1)).astype(np.int64) - augment.shift
        clips = _shift_clips(clips, offsets[:, 0], offsets[:, 1])
    x = torch.from_numpy(normalise(clips, preprocess))
    if augment.scale:
        x = _crop_and_enlarge(x, 1 - augment.scale * u[:, 7], u[:, 8:10])
    if augment.saturation:
        x = _change_saturation(x, 1 + augment.saturation * (2 * u[:, 12] - 1), preprocess)
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
