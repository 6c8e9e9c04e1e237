"""Which way up a picture is: the display matrix of a frame, in all eight orientations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

    from skd_bench.video.types import Pixels


@dataclass(frozen=True)
class Orientation:
    """How the stored picture lies in the shown one. First it is transposed, then mirrored.

    Attributes:
        transposed: Whether rows and columns change places.
        left_right: Whether left and right change places in the shown picture.
        up_down: Whether top and bottom change places in the shown picture.
    """

    transposed: bool = False
    left_right: bool = False
    up_down: bool = False

    @property
    def is_mirrored(self) -> bool:
        """Whether no rotation gives this orientation."""
        return (self.transposed + self.left_right + self.up_down) % 2 == 1

    def view_as_stored(self, shown: Pixels) -> Pixels:
        """A view of a shown picture (H, W, 3) whose rows and columns are those of the stored picture."""
        view = shown[:: -1 if self.up_down else 1, :: -1 if self.left_right else 1]
        return view.swapaxes(0, 1) if self.transposed else view


AS_STORED = Orientation()


def read_orientation(frame: VideoFrame) -> Orientation:
    """The orientation in which FFmpeg shows a frame; an angle between those of the eight is rounded."""
    turns = frame.rotation
    try:
        # Most frames carry no matrix. A frame that is mirrored top to bottom has a rotation of 0, so that the matrix
        # itself is read. Its last column is never used.
        side_data = frame.side_data
        matrix: Any = side_data.get("DISPLAYMATRIX") if len(side_data) else None
    except (KeyError, ValueError):  # PyAV does not know one of the kinds of side data
        return _orientation_of_turns(round(turns / 90) % 4)
    if matrix is None:
        return AS_STORED
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)


def _orientation_of_turns(quarters: int) -> Orientation:
    """The orientation of a number of quarter turns against the clock."""
    return (AS_STORED, Orientation(True, False, True), Orientation(False, True, True), Orientation(True, True, False))[
        quarters
    ]
