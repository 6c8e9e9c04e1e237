"""What a clip is made of: which frames are sampled, how they are fitted and normalised, which part of a file is read."""

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
