"""From a video file to the network's input: decode, sample, resize, normalise.

Training, calibration, accuracy and `predict` all use these functions, so a clip is the same in training and on the
device. PyAV is imported when the first file is opened, not before.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from skd_bench.video.types import WHOLE_FILE, ClipError, ClipSpan, Pixels, Preprocessing, Sampling


def decode_clip(path: Path | str, sampling: Sampling, preprocess: Preprocessing, span: ClipSpan = WHOLE_FILE) -> Pixels:
    """Decode the sampled frames of a video, upright and resized to the network's input.

    The clip is that of straight decoding from the first to the last packet; `skd_bench.video.straight_decode` states
    what that is. Where the stream itself shows that it is safe, only the groups of pictures with a chosen frame are
    decoded. Frames are chosen by the time at which they are shown, so a variable frame rate is sampled by time. Only
    the chosen frames are stored, so memory hardly grows with the length of the video (10 bytes a picture).

    For a span of time, only its groups of pictures are read, where the container's index leads to them. Its frames are
    those shown from `start` to `end`.

    A damaged file is accepted if at least half of its frames can be decoded. A chosen frame that is lost is replaced by
    the frame shown before it.

    Args:
        path: A video that FFmpeg can read, or a folder of numbered JPEG or PNG pictures.
        sampling: Which frames are taken.
        preprocess: The size and how frames are fitted to it; `mean` is the colour of the padding. Pixels are not
            normalised here.
        span: The span of time or the place in an archive, if the clip is not the whole file.

    Returns:
        uint8 RGB of shape (T, H, W, 3).

    Raises:
        ClipError: The file is missing, empty, not a video, or too damaged; the message gives the file and the reason.
    """
    from skd_bench.video.decoder import decode_file

    return _decode_with(decode_file, Path(path), sampling, preprocess, span)


def decode_clip_straight(
    path: Path | str, sampling: Sampling, preprocess: Preprocessing, span: ClipSpan = WHOLE_FILE
) -> Pixels:
    """Decode like `decode_clip`, but every frame from the first to the last. The result is the same; this is slower."""
    from skd_bench.video.straight_decode import decode_straight

    return _decode_with(decode_straight, Path(path), sampling, preprocess, span)


def _decode_with(
    decode: Callable[[Path, Sampling, Preprocessing, ClipSpan], Pixels],
    path: Path,
    sampling: Sampling,
    preprocess: Preprocessing,
    span: ClipSpan,
) -> Pixels:
    """Call a decoder; its errors become `ClipError`."""
    reason = _why_unreadable(path)
    if reason is not None:
        raise ClipError(path, reason)
    import av
    from av.error import FFmpegError

    from skd_bench.video.frame_folder import decode_frame_folder

    if path.is_dir():
        decode = decode_frame_folder
    try:
        return decode(path, sampling, preprocess, span)
    except FFmpegError as error:
        raise ClipError(path, f"FFmpeg (PyAV {av.__version__}) reports: {error.strerror or error}") from error
    except (OSError, ValueError, MemoryError) as error:
        raise ClipError(path, str(error) or type(error).__name__) from error


def normalise(clips: Pixels, preprocess: Preprocessing) -> npt.NDArray[np.float32]:
    """Normalise stored pixels to the network's input: `(pixel / 255 - mean) / std`, channels first.

    Args:
        clips: uint8 of shape (B, T, H, W, 3).
        preprocess: The mean and std of each channel.

    Returns:
        float32 of shape (B, 3, T, H, W), contiguous.

    Raises:
        ValueError: The array is not uint8 or does not have that shape.
    """
    if clips.dtype != np.uint8 or clips.ndim != 5 or clips.shape[-1] != 3:
        raise ValueError(f"clips must be uint8 (B, T, H, W, 3), not {clips.dtype} {clips.shape}")
    scale = 1 / (255 * np.asarray(preprocess.std, np.float64))
    shift = np.asarray(preprocess.mean, np.float64) / preprocess.std
    # Transpose the bytes before converting to floats: this moves a quarter of the memory.
    out = np.ascontiguousarray(clips.transpose(0, 4, 1, 2, 3)).astype(np.float32)
    out *= scale.astype(np.float32).reshape(3, 1, 1, 1)
    out -= shift.astype(np.float32).reshape(3, 1, 1, 1)
    return out


def prepare_input(clips: Pixels, preprocess: Preprocessing, dtype: str) -> npt.NDArray[np.float32] | Pixels:
    """Clips as a model file takes them: normalised, unless its input is uint8 (it then normalises them itself).

    Args:
        clips: uint8 of shape (B, T, H, W, 3).
        preprocess: The mean and std of each channel.
        dtype: The dtype of the file's input, as a numpy name: "uint8" or "float32".

    Returns:
        uint8 (B, T, H, W, 3), contiguous, for "uint8"; else float32 (B, 3, T, H, W), see `normalise`.

    Raises:
        ValueError: The clips are to be normalised and are not uint8 (B, T, H, W, 3).
    """
    return np.ascontiguousarray(clips) if dtype == "uint8" else normalise(clips, preprocess)


def _why_unreadable(path: Path) -> str | None:
    """Why this path cannot be a video file; None if it may be one."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return None  # it may hold pictures
        if not stat.S_ISREG(status.st_mode):
            return "it is a pipe or a device; give a video file"  # reading one may never end
        if status.st_size == 0:
            return "the file is empty (0 bytes)"
    except FileNotFoundError:
        return "no such file or folder"
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:  # a NUL byte in the name
        return str(error)
    return None
