"""Several views of one video: the network runs on several samplings, and its answers are averaged."""

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

    `uniform` sampling: each of the T parts is divided into V smaller parts, and view v takes the middle of the v-th one
    of every part. `dense` sampling: V consecutive clips around the middle of the video. One view is exactly the
    deployed sampling. The cost grows with V.

    Args:
        path: A video that FFmpeg can read.
        sampling: Sampling of the bundle.
        preprocess: Preprocessing of the bundle.
        views: Number of views V, at least 1.

    Returns:
        uint8 (V, T, H, W, 3).

    Raises:
        ClipError: The video cannot be read.
        UserError: `views` is below 1.
    """
    if views < 1:
        raise UserError(f"views must be at least 1, not {views}")
    frames = decode_clip(path, replace(sampling, frames=sampling.frames * views), preprocess)
    if sampling.kind == "dense":
        return frames.reshape(views, sampling.frames, *frames.shape[1:])
    parts = frames.reshape(sampling.frames, views, *frames.shape[1:])
    return np.ascontiguousarray(parts.swapaxes(0, 1))


def average_view_logits(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Average the probabilities of several views, as logits, so that they can be scored like a single view.

    Args:
        probabilities: (V, C), each row sums to 1.

    Returns:
        (C,): the logarithm of the mean probability; its `softmax` is the mean probability.
    """
    logits: npt.NDArray[np.float64] = np.log(np.maximum(probabilities.mean(axis=0), 1e-300))
    return logits
