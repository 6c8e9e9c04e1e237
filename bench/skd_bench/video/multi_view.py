"""More views of one video: the same network over several samplings, answers averaged, at that many times the cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from skd_bench.errors import UserError
from skd_bench.video.clip import decode_clip
from skd_bench.video.types import Pixels, Preprocessing, Sampling


def decode_views(path: Path | str, sampling: Sampling, preprocess: Preprocessing, views: int) -> Pixels:
    """Decode several deterministic samplings of a video in one pass.

    `uniform` sampling: each of the T segments is cut into V parts, and view v takes the middle of part v of every
    segment. `dense` sampling: V clips one after the other, around the middle of the video. One view is the deployed
    protocol exactly.

    Args:
        path: A video that FFmpeg can read.
        sampling: The bundle's.
        preprocess: The bundle's.
        views: V, at least 1.

    Returns:
        uint8 (V, T, H, W, 3).

    Raises:
        ClipError: The video cannot be read.
        UserError: Fewer than one view is asked for.
    """
    if views < 1:
        raise UserError(f"at least one view is needed, not {views}")
    frames = decode_clip(path, replace(sampling, frames=sampling.frames * views), preprocess)
    if sampling.kind == "dense":
        return frames.reshape(views, sampling.frames, *frames.shape[1:])
    parts = frames.reshape(sampling.frames, views, *frames.shape[1:])
    return np.ascontiguousarray(parts.swapaxes(0, 1))


def average_view_logits(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The answer of several views as logits, so that it is scored as a single view is.

    Args:
        probabilities: (V, C), each row sums to 1.

    Returns:
        (C,): the logarithm of the mean probability; `softmax` of it gives the mean back.
    """
    logits: npt.NDArray[np.float64] = np.log(np.maximum(probabilities.mean(axis=0), 1e-300))
    return logits
