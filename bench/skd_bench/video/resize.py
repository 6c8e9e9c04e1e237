"""Frames to the network's input size: rotation, pixel aspect ratio, scaling, cropping and padding."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from skd_bench.video.orientation import read_orientation

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

    from skd_bench.video.types import FitMode, Pixels, Preprocessing

# swscale's AREA | FULL_CHR_H_INT | ACCURATE_RND | BITEXACT: the same pixels on every CPU, without bias (without
# FULL_CHR_H_INT all pixels are 1.8 grey levels too dark).
_SCALER = 0x20 | 0x2000 | 0x40000 | 0x80000


class FrameResizer:
    """Resizes frames and writes them, in order, into one array.

    Args:
        frames: Number of frames T.
        preprocess: The size (H, W), how frames are fitted to it, and the colour of the padding.
        pixel_aspect: Width of a pixel over its height, as stored in the file; None or 0: pixels are square.

    Attributes:
        out: uint8 (T, H, W, 3).
        done: Number of frames that are already written.
    """

    def __init__(self, frames: int, preprocess: Preprocessing, pixel_aspect: Fraction | None) -> None:
        from av.video.reformatter import VideoReformatter

        self.out: Pixels = np.empty((frames, preprocess.height, preprocess.width, 3), np.uint8)
        self.done = 0
        self._preprocess = preprocess
        self._pixel_aspect = pixel_aspect if pixel_aspect and pixel_aspect > 0 else Fraction(1)
        self._padding = [min(max(round(255 * m), 0), 255) for m in preprocess.mean]
        self._reformat = VideoReformatter().reformat
        self._sizes: dict[tuple[int, int, bool], tuple[int, int]] = {}
        self._progressive = ProgressiveMarker()
        self._last: VideoFrame | None = None

    def rewind(self) -> None:
        """Write the next frame into the first place again."""
        self.done = 0

    def write_frame(self, frame: VideoFrame) -> None:
        """Write a frame at the next position; if it is the previous frame again, its pixels are copied."""
        if frame is self._last:
            self.out[self.done] = self.out[self.done - 1]
        else:
            self._resize_into(frame, self.out[self.done])
        self._last = frame
        self.done += 1

    def _resize_into(self, frame: VideoFrame, target: Pixels) -> None:
        orientation = read_orientation(frame)
        upright = orientation.view_as_stored(target)  # writing into it writes the target
        height, width = upright.shape[:2]
        key = (frame.width, frame.height, orientation.transposed)
        if key not in self._sizes:
            aspect = Fraction(frame.width, frame.height) * self._pixel_aspect
            self._sizes[key] = compute_scaled_size(aspect, height, width, self._preprocess.fit)
        scaled_height, scaled_width = self._sizes[key]
        if frame.interlaced_frame:
            frame = self._progressive.mark(frame)
        image = self._reformat(frame, scaled_width, scaled_height, "rgb24", interpolation=_SCALER, threads=1)
        # Rows of the scaler end with alignment bytes; the view leaves them out, so pixels are copied only once.
        scaler_rows = np.frombuffer(memoryview(image.planes[0]), np.uint8).reshape(scaled_height, -1)
        pixels = scaler_rows[:, : 3 * scaled_width].reshape(scaled_height, scaled_width, 3)
        rows, source_rows = compute_overlap(height, scaled_height)
        columns, source_columns = compute_overlap(width, scaled_width)
        if scaled_height < height or scaled_width < width:
            upright[:] = self._padding
        upright[rows, columns] = pixels[source_rows, source_columns]


class ProgressiveMarker:
    """Marks interlaced frames as progressive; their pixels stay as they are.

    swscale scales the two fields of an interlaced frame separately: every other row of the result is from another
    moment (a comb). As one picture, as the `scale` filter of FFmpeg takes it, neighbouring rows are averaged.
    """

    def __init__(self) -> None:
        self._graph: Any = None
        self._form: tuple[int, int, str] | None = None

    def mark(self, frame: VideoFrame) -> VideoFrame:
        """The same frame without the mark."""
        form = (frame.width, frame.height, frame.format.name)
        if form != self._form:
            self._graph, self._form = self._make_graph(frame), form
        self._graph.push(frame)
        marked: VideoFrame = self._graph.pull()
        return marked

    @staticmethod
    def _make_graph(frame: VideoFrame) -> Any:
        from av.filter import Graph

        graph = Graph()
        steps = [
            graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)),
            graph.add("setfield", "mode=prog"),
            graph.add("buffersink"),
        ]
        for before, after in pairwise(steps):
            before.link_to(after)
        graph.configure()
        return graph


def compute_scaled_size(aspect: Fraction, height: int, width: int, fit: FitMode) -> tuple[int, int]:
    """Height and width in pixels to which the whole frame is scaled before it is cropped or padded.

    Args:
        aspect: Width of the frame over its height, with square pixels.
        height: Of the network's input, in pixels.
        width: Of the network's input, in pixels.
        fit: See `Preprocessing`.
    """
    if fit == "stretch":
        return height, width
    wider = aspect > Fraction(width, height)
    if wider == (fit == "crop"):
        return height, max(round(height * aspect), 1)
    return max(round(width / aspect), 1), width


def compute_overlap(size: int, scaled: int) -> tuple[slice, slice]:
    """Target and source range, along one axis, when a frame is centred on the input.

    Args:
        size: Pixels of the input along this axis.
        scaled: Pixels of the scaled frame along this axis.

    Returns:
        The range in the input that is written, and the range of the scaled frame that is written there.
    """
    common = min(size, scaled)
    into, out_of = (size - common) // 2, (scaled - common) // 2
    return slice(into, into + common), slice(out_of, out_of + common)
