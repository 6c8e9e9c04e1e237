"""Contact sheets: a few frames of a clip side by side in one small JPEG, for an HTML page."""

from __future__ import annotations

import base64
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from skd_bench.video.clip import decode_clip
from skd_bench.video.types import ClipError, Preprocessing, Sampling

SHEET_FRAMES, SHEET_FRAME_SIDE = 6, 112


def build_contact_sheet(path: Path | None, stored: NDArray[np.uint8], preprocess: Preprocessing) -> str:
    """A contact sheet of a clip as the ``data:`` URL of a JPEG.

    Args:
        path: The video. If it is None or cannot be read, the stored frames are used.
        stored: The frames of the clip in the clip store, ``(T, H, W, 3)`` uint8.
        preprocess: How frames are fitted to a square; the same fit is used here, so that the sheet shows the region
            that the network gets, at a higher resolution.
    """
    clip = stored[np.linspace(0, len(stored) - 1, min(SHEET_FRAMES, len(stored))).round().astype(int)]
    if path is not None:
        try:
            sheet_preprocess = Preprocessing(
                SHEET_FRAME_SIDE, SHEET_FRAME_SIDE, preprocess.fit, preprocess.mean, preprocess.std
            )
            clip = decode_clip(path, Sampling(SHEET_FRAMES, "uniform", 1), sheet_preprocess)
        except ClipError:
            pass  # the video is gone or damaged by now: use the stored frames
    padded = np.pad(clip, ((0, 0), (0, 0), (0, max(clip.shape[2] // 28, 1)), (0, 0)))  # a black gap between frames
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(np.concatenate(list(padded), axis=1))).decode()


def encode_jpeg(picture: NDArray[np.uint8]) -> bytes:
    """A picture ``(H, W, 3)`` uint8 RGB as a JPEG file; an odd last row or column is dropped."""
    even = np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])
    frame = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(format="yuvj420p")
    codec = av.CodecContext.create("mjpeg", "w")
    codec.width, codec.height, codec.pix_fmt = frame.width, frame.height, "yuvj420p"
    codec.options = {"qmin": "4", "qmax": "6"}
    codec.time_base = 1  # type: ignore[assignment]
    return b"".join(bytes(packet) for packet in (*codec.encode(frame), *codec.encode(None)))
