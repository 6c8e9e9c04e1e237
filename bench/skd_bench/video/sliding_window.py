"""A long video as overlapping windows. Frames are decoded once, in order, and shared by all windows that need them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skd_bench.video.container import open_container
from skd_bench.video.resize import FrameResizer
from skd_bench.video.stream.pictures import TimedPictures
from skd_bench.video.types import ClipError, Pixels, Preprocessing, Sampling

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


# A header can claim that a frame is shown for years, which would be millions of windows of the same picture.
_MAX_GAP_S = 3600.0


@dataclass(frozen=True)
class WindowSpacing:
    """Where the windows of a long video lie, in seconds.

    Attributes:
        window: Length of a window.
        hop: Time between the starts of two windows.
    """

    window: float
    hop: float


@dataclass
class Stopwatch:
    """Seconds spent in each stage.

    Attributes:
        seconds: By name of the stage; a stage that never ran is absent.
    """

    seconds: dict[str, float] = field(default_factory=dict)

    def add_elapsed(self, stage: str, begin: float) -> float:
        """Add the seconds since `begin` (a value of `time.perf_counter`) to a stage; returns the current time."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - begin
        return now


@dataclass
class _PendingWindow:
    """A window that is not complete yet.

    Attributes:
        start: Of the window, in seconds.
        end: Of the window, in seconds.
        times: Times in seconds of the frames that are still missing.
        frames: Frames (H, W, 3) that are already there.
    """

    start: float
    end: float
    times: list[float]
    frames: list[Pixels]


class SlidingWindows:
    """Iterates over the windows of one video.

    Args:
        path: A video that FFmpeg can read.
        sampling: Which frames of a window are taken.
        preprocess: The size of the frames and how they are fitted to it.
        spacing: Length of the windows and time between them.
        threads: Number of decoder threads.
        stopwatch: Receives the seconds of the stages `decode` and `sample` (which includes resizing).

    Attributes:
        seconds: Seconds of video decoded so far.
        frames: Number of frames decoded so far.

    Raises:
        ClipError: On iteration, if the file is missing or is not a video.
    """

    def __init__(
        self,
        path: Path | str,
        sampling: Sampling,
        preprocess: Preprocessing,
        spacing: WindowSpacing,
        *,
        threads: int = 1,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self._path, self._sampling, self._preprocess = Path(path), sampling, preprocess
        self._window, self._hop, self._threads = spacing.window, spacing.hop, threads
        self._stopwatch = stopwatch or Stopwatch()
        self._resizer: FrameResizer | None = None
        self.seconds, self.frames = 0.0, 0

    def __iter__(self) -> Iterator[tuple[float, float, Pixels]]:
        """Yield start and end in seconds, and uint8 (T, H, W, 3). A video shorter than a window gives one window."""
        waiting: deque[_PendingWindow] = deque()
        started = yielded = 0
        last_frame: tuple[VideoFrame, Pixels | None] | None = None
        for stamp, frame in self._iter_decoded_frames():
            begin = time.perf_counter()
            if not stamp - started * self._hop <= _MAX_GAP_S:
                raise ClipError(self._path, f"its time jumps by {stamp - started * self._hop:.3g} s between two frames")
            while started * self._hop <= stamp:
                waiting.append(self._start_window(started * self._hop))
                started += 1
            if last_frame is not None:
                last_frame = self._deliver_frame(waiting, last_frame, stamp)
            last_frame = (frame, None)
            begin = self._stopwatch.add_elapsed("sample", begin)
            while waiting and not waiting[0].times:
                done = waiting.popleft()
                yielded += 1
                yield done.start, done.end, np.stack(done.frames)
        if last_frame is None:
            raise ClipError(self._path, "no frame can be decoded")
        if waiting:  # the last frame is shown until the end of the video, or of the only window
            self._deliver_frame(waiting, last_frame, self.seconds if yielded else float("inf"))
        for done in waiting:
            if not done.times:
                yield done.start, done.end, np.stack(done.frames)
                if not yielded:
                    return

    def _start_window(self, start: float) -> _PendingWindow:
        count = self._sampling.frames
        if self._sampling.kind == "dense":
            step = self._window / ((count - 1) * self._sampling.stride + 1)
            offsets = [(i * self._sampling.stride + 0.5) * step for i in range(count)]
        else:
            offsets = [(i + 0.5) * self._window / count for i in range(count)]
        return _PendingWindow(start, start + self._window, [start + o for o in offsets], [])

    def _deliver_frame(
        self, waiting: deque[_PendingWindow], last_frame: tuple[VideoFrame, Pixels | None], until: float
    ) -> tuple[VideoFrame, Pixels | None]:
        """Add the previous frame, shown until `until`, to each window that needs it; it is resized at most once."""
        frame, pixels = last_frame
        for window in waiting:
            while window.times and window.times[0] < until:
                if pixels is None:
                    pixels = self._resize_frame(frame)
                window.frames.append(pixels)
                window.times.pop(0)
        return frame, pixels

    def _resize_frame(self, frame: VideoFrame) -> Pixels:
        assert self._resizer is not None
        self._resizer.rewind()
        self._resizer.write_frame(frame)
        pixels: Pixels = self._resizer.out[0].copy()
        return pixels

    def _iter_decoded_frames(self) -> Iterator[tuple[float, VideoFrame]]:
        """Yield each frame with its time in seconds since the first frame."""
        from av.error import FFmpegError

        try:
            with open_container(self._path) as container:
                pictures = TimedPictures(container, threads=self._threads)
                self._resizer = FrameResizer(1, self._preprocess, pictures.stream.sample_aspect_ratio)
                tick = pictures.rule.tick
                begin = time.perf_counter()
                for ticks, frame in pictures:
                    self.seconds = ticks * tick
                    self.frames += 1
                    self._stopwatch.add_elapsed("decode", begin)
                    yield self.seconds, frame
                    begin = time.perf_counter()
                if self.frames:
                    self.seconds = pictures.find_end() * tick
        except (OSError, ValueError, FFmpegError) as error:
            if self.frames:  # a truncated file: use the frames decoded so far
                return
            raise ClipError(self._path, getattr(error, "strerror", None) or str(error)) from error
