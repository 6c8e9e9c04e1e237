"""From a video file to the network's input: decode, sample, fit, normalise.

Training, calibration, accuracy and `predict` all go through these lines, so a clip looks the same in the lab and on
the device. PyAV is imported when the first file is opened, not before.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from skd_bench.errors import UserError

SamplingKind = Literal["uniform", "dense", "segment"]
FitMode = Literal["crop", "stretch", "pad"]
Pixels = npt.NDArray[np.uint8]


class ClipError(UserError):
    """A video that cannot become a clip.

    Attributes:
        path: The file, as given.
        reason: Why, in a few words, without the path.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"cannot read the clip {path}: {reason}")
        self.path = Path(path)
        self.reason = reason


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video become the clip.

    Attributes:
        frames: T, at least 1.
        kind: `uniform` cuts the video's duration into T equal segments and takes the frame shown at the middle of
            each; `dense` takes frames `stride` apart around the middle of the video; `segment` cuts the duration into
            `segments` equal parts (TSN, 1608.00859) and takes `frames / segments` frames around the middle of each,
            `stride` apart.
        stride: Frames between two samples, at least 1; not for `uniform`. Where frames are not equally long, one
            counts as the video's duration divided by its frames.
        segments: Parts of a `segment` sampling, a divisor of `frames`; 1 otherwise.

    A video with fewer frames than asked repeats frames: `uniform` where several middles fall on one frame, the others
    the first and the last one of the video or of the part.
    """

    frames: int
    kind: SamplingKind = "uniform"
    stride: int = 1
    segments: int = 1

    def __post_init__(self) -> None:
        if self.frames < 1 or self.stride < 1:
            raise UserError(f"sampling needs frames >= 1 and stride >= 1, not {self.frames} and {self.stride}")
        if self.segments < 1 or self.frames % self.segments or (self.segments > 1 and self.kind != "segment"):
            raise UserError(
                f"sampling of kind segment cuts {self.frames} frames into equal parts, not {self.segments} "
                f"(kind {self.kind}); let segments divide frames"
            )
        if self.kind not in get_args(SamplingKind):
            raise UserError(f"sampling is one of {', '.join(get_args(SamplingKind))}, not {self.kind!r}")


@dataclass(frozen=True)
class Preprocessing:
    """How a frame becomes the network's pixels.

    Attributes:
        height: Pixels, at least 1.
        width: Pixels, at least 1.
        fit: `crop` scales until the frame covers the size and cuts the centre out, `stretch` ignores the aspect,
            `pad` scales until the frame fits inside and fills the rest with the mean colour.
        mean: Of the red, green and blue channel, in 0..1, subtracted.
        std: Of the red, green and blue channel, in 0..1, divided by; above 0.
    """

    height: int
    width: int
    fit: FitMode
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise UserError(f"a clip needs height >= 1 and width >= 1, not {self.height} and {self.width}")
        if self.fit not in get_args(FitMode):
            raise UserError(f"fit is one of {', '.join(get_args(FitMode))}, not {self.fit!r}")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(s > 0 for s in self.std):
            raise UserError(f"mean and std need three numbers each, std above 0, not {self.mean} and {self.std}")


@dataclass(frozen=True, slots=True)
class ClipSpan:
    """A clip that is a part of a file.

    Attributes:
        start: Seconds from the start of the video.
        end: Seconds from the start of the video; None: its end.
        offset: First byte of the video in the file, where it lies unpacked in an archive.
        size: Bytes of it there; None: the file is the video.
    """

    start: float = 0.0
    end: float | None = None
    offset: int = 0
    size: int | None = None

    @property
    def is_timed(self) -> bool:
        """Whether it is a span of time, not the whole video."""
        return self.start > 0 or self.end is not None


WHOLE_FILE = ClipSpan()


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
