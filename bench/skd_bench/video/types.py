"""Settings of a clip: which part of a file is read, which frames are sampled, how they are resized and normalised."""

from __future__ import annotations

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
    """A video file, or a folder of pictures, that cannot be decoded to a clip.

    Attributes:
        path: The file, as given.
        reason: The cause in a few words, without the path.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"cannot read the clip {path}: {reason}")
        self.path = Path(path)
        self.reason = reason


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video become the clip.

    Attributes:
        frames: Number of frames T of the clip, at least 1.
        kind: `uniform` divides the video's duration into T equal parts and takes the frame shown at the middle of
            each. `dense` takes frames `stride` apart around the middle of the video. `segment` divides the duration
            into `segments` equal parts (TSN, arXiv 1608.00859) and takes `frames / segments` frames around the middle
            of each, `stride` apart.
        stride: Distance between two sampled frames, in frames of average duration (the video's duration divided by
            its number of frames), at least 1; `uniform` ignores it.
        segments: Number of parts of a `segment` sampling, a divisor of `frames`; 1 for the other kinds.

    If a video has fewer frames than the clip, frames repeat: with `uniform`, where several middles lie in one frame;
    with the other kinds, the first and the last frame of the video or of the part.

    Raises:
        UserError: A value is out of range, or `segments` does not divide `frames`.
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
                f"sampling of kind {self.kind} cannot divide {self.frames} frames into {self.segments} equal parts; "
                "choose segments that divide frames, and kind segment where segments is above 1"
            )
        if self.kind not in get_args(SamplingKind):
            raise UserError(f"unknown sampling {self.kind!r}; choose from {', '.join(get_args(SamplingKind))}")


@dataclass(frozen=True)
class Preprocessing:
    """How a frame becomes the network's input.

    Attributes:
        height: Of the input in pixels, at least 1.
        width: Of the input in pixels, at least 1.
        fit: `crop` scales the frame until it covers the input and takes its centre. `stretch` ignores the aspect
            ratio. `pad` scales the frame until it fits into the input and fills the rest with the mean colour.
        mean: Of the red, green and blue channel, in 0..1; it is subtracted.
        std: Of the red, green and blue channel, in 0..1 and above 0; the difference is divided by it.

    Raises:
        UserError: A value is out of range.
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
            raise UserError(f"unknown fit {self.fit!r}; choose from {', '.join(get_args(FitMode))}")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(s > 0 for s in self.std):
            raise UserError(f"mean and std need three numbers each, std above 0, not {self.mean} and {self.std}")


@dataclass(frozen=True, slots=True)
class ClipSpan:
    """The part of a file that is a clip: a span of time, a range of bytes, or both.

    Attributes:
        start: Start of the clip, in seconds from the start of the video.
        end: End of the clip, in seconds from the start of the video; None: the end of the video.
        offset: Position of the video's first byte in the file; above 0 for a video inside an uncompressed archive.
        size: Length of the video in bytes; None: the whole file is the video.
        frame_rate: Pictures per second, above 0, where the clip is a folder of pictures; a video has its own times.
    """

    start: float = 0.0
    end: float | None = None
    offset: int = 0
    size: int | None = None
    frame_rate: float = 25.0

    @property
    def is_timed(self) -> bool:
        """Whether the clip is a span of time and not the whole video."""
        return self.start > 0 or self.end is not None


WHOLE_FILE = ClipSpan()
