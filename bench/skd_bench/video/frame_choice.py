"""Which pictures of a video become its clip, from the times at which they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from skd_bench.video.types import ClipSpan, Sampling

Ticks = npt.NDArray[np.int64]

EMPTY_SPAN_MESSAGE = "the span from {0.start:g} s is empty, or starts after the end of the video"


@dataclass(frozen=True)
class Timetable:
    """When the pictures of a video are shown.

    Attributes:
        times: Of each picture, in the order of presentation; ticks since the first picture of the video, ascending.
        end: When the last picture ends, in the same unit.
        tick: The unit in seconds; None if the container stores no timestamps. All pictures then last one tick.
    """

    times: Ticks
    end: int
    tick: float | None


def choose_positions(table: Timetable, sampling: Sampling, span: ClipSpan) -> list[int]:
    """Positions in ``table.times`` of the T sampled pictures, ascending; a repeated picture is sampled several times.

    Raises:
        ValueError: The span is empty, or there are no timestamps to find it.
    """
    first, last, begin, stop = 0, table.end, 0, len(table.times)
    if span.is_timed:
        first, last, begin, stop = _find_span(table, span)
    times = table.times[begin:stop] - first
    count, frames, duration = stop - begin, sampling.frames, max(last - first, 1)
    # Times are ``wanted / scale`` of the duration, as integers, so nothing is rounded here. Containers do round
    # timestamps (Matroska to 1 ms). Therefore a time up to ``slack`` before a frame, at most two ticks and an eighth of
    # a frame, counts as that frame.
    if sampling.kind == "uniform":
        scale = 2 * frames  # middle of segment k: (2k + 1) / 2T of the duration
        wanted = 2 * np.arange(frames, dtype=np.int64) + 1
    else:
        scale = 4 * count * sampling.segments
        wanted = _compute_strided_times(count, sampling)
    slack = min(2 * scale, scale * duration // (8 * count))
    ticks = [(int(w) * duration + slack) // scale for w in wanted]  # Python's integers: no product overflows
    picks = np.searchsorted(times, np.asarray(ticks, np.int64), side="right") - 1
    chosen: list[int] = (begin + picks.clip(0, count - 1)).tolist()
    return chosen


def _find_span(table: Timetable, span: ClipSpan) -> tuple[int, int, int, int]:
    """First tick of a span and the tick after its last; first position shown in it and the position after the last."""
    if table.tick is None:
        raise ValueError("it stores no timestamps, so a span of time cannot be found in it")
    first = round(span.start / table.tick)
    last = table.end if span.end is None else min(round(span.end / table.tick), table.end)
    if first >= last:
        raise ValueError(EMPTY_SPAN_MESSAGE.format(span))
    # The picture before `first` is still shown when the span starts.
    begin = max(int(np.searchsorted(table.times, first, side="right")) - 1, 0)
    return first, last, begin, int(np.searchsorted(table.times, last, side="left"))


def _compute_strided_times(count: int, sampling: Sampling) -> Ticks:
    """Times of frames ``stride`` apart around the middle of each part; unit: 1 / (4 segments) of an average frame.

    A quarter of a frame is added: if a time lies exactly between two frames, the earlier one is chosen, for even and
    for odd counts.
    """
    parts, stride, each = sampling.segments, sampling.stride, sampling.frames // sampling.segments
    middles = 2 * count * (2 * np.arange(parts, dtype=np.int64) + 1)
    offsets = 4 * stride * np.arange(each, dtype=np.int64) - 2 * ((each - 1) * stride + 1) + 1
    first = 4 * count * np.arange(parts, dtype=np.int64)
    times = middles[:, None] + parts * offsets
    # Limit times to the part: its first frame starts with it, its last frame ends with it.
    return np.asarray(times.clip(first[:, None], (first + max(4 * count - parts, 0))[:, None]).ravel(), np.int64)
