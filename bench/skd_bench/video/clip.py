"""From a video file to the network's input: decode, sample, fit, normalise.

Training, calibration, accuracy and `predict` all go through these lines, so a clip looks the same in the lab and on
the device. PyAV is imported when the first file is opened, not before.
"""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import numpy.typing as npt

from skd_bench.video.types import WHOLE_FILE, ClipError, ClipSpan, Pixels, Preprocessing, Sampling


def decode_clip(path: Path | str, sampling: Sampling, preprocess: Preprocessing, span: ClipSpan = WHOLE_FILE) -> Pixels:
    """Decode the sampled frames of a video, upright and fitted to the network's size.

    A first pass reads timestamps without decoding; a second decodes only the groups of pictures that hold a chosen
    frame and keeps only the chosen frames, so memory does not grow with the video. Timestamps decide, so a variable
    frame rate is sampled by time. Rotation and non-square pixels stored in the file are honoured.

    Of a span of time only the groups of pictures within are read; its frames are those shown from `start` to `end`.

    A damaged file is accepted while at least half of the frames that it announces (and that were needed) decode; a
    chosen frame that is lost is replaced by the one shown before it.

    Args:
        path: A video that FFmpeg can read.
        sampling: Which frames.
        preprocess: Which size; `mean` colours the padding. Nothing is normalised here.
        span: A span of time, or a place in an archive, where the clip is not the whole file.

    Returns:
        uint8 RGB of shape (T, H, W, 3).

    Raises:
        ClipError: The file is missing, empty, no video, or too damaged; names the file and the reason.
    """
    path = Path(path)
    reason = _why_unreadable(path)
    if reason is not None:
        raise ClipError(path, reason)
    import av
    from av.error import FFmpegError

    from skd_bench.video.decoder import decode_file

    try:
        return decode_file(path, sampling, preprocess, span)
    except FFmpegError as error:
        raise ClipError(path, f"FFmpeg {av.__version__} says: {error.strerror or error}") from error
    except (OSError, ValueError, MemoryError) as error:
        raise ClipError(path, str(error) or type(error).__name__) from error


def normalise(clips: Pixels, preprocess: Preprocessing) -> npt.NDArray[np.float32]:
    """Turn stored pixels into the network's input: `(pixel / 255 - mean) / std`, channels first.

    Args:
        clips: uint8 of shape (B, T, H, W, 3).
        preprocess: The mean and std of each channel.

    Returns:
        float32 of shape (B, 3, T, H, W), contiguous.

    Raises:
        ValueError: The array is not uint8 of that shape.
    """
    if clips.dtype != np.uint8 or clips.ndim != 5 or clips.shape[-1] != 3:
        raise ValueError(f"clips must be uint8 (B, T, H, W, 3), not {clips.dtype} {clips.shape}")
    scale = 1 / (255 * np.asarray(preprocess.std, np.float64))
    shift = np.asarray(preprocess.mean, np.float64) / preprocess.std
    # Bytes are moved before they become floats: a quarter of the traffic of transposing floats.
    out = np.ascontiguousarray(clips.transpose(0, 4, 1, 2, 3)).astype(np.float32)
    out *= scale.astype(np.float32).reshape(3, 1, 1, 1)
    out -= shift.astype(np.float32).reshape(3, 1, 1, 1)
    return out


def prepare_input(clips: Pixels, preprocess: Preprocessing, dtype: str) -> npt.NDArray[np.float32] | Pixels:
    """What a file takes: the frames as they are where its input is uint8 (it normalises them itself), else `normalise`.

    Args:
        clips: uint8 of shape (B, T, H, W, 3).
        preprocess: The mean and std of each channel.
        dtype: Of the file's input, as a numpy name.
    """
    return np.ascontiguousarray(clips) if dtype == "uint8" else normalise(clips, preprocess)


def _why_unreadable(path: Path) -> str | None:
    """Why this path cannot be a video file; None when it may be one."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return "it is a folder; name a video file"
        if not stat.S_ISREG(status.st_mode):
            return "it is no file but a pipe or a device"  # reading one may never end
        if status.st_size == 0:
            return "the file is empty (0 bytes)"
    except FileNotFoundError:
        return "there is no such file"
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:  # a NUL byte in the name
        return str(error)
    return None
