"""When each picture of a stream is shown: the one rule for missing, repeated, negative and jumping timestamps.

`decode_clip`, `watch` and `predict --stream` all take their time from here.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Picture = TypeVar("Picture")

# The longest time that one picture may be shown; after it, the clock has jumped. Both are FFmpeg's own limits: formats
# for broadcast (MPEG-TS, MPEG-PS) may change their clock at any packet, files of other formats have one clock.
_LONGEST_SHOWN_S = 30 * 3600
_LONGEST_SHOWN_BROADCAST_S = 10
_MAX_TICKS = 1 << 42  # of one picture, whatever the unit; a longer time (centuries) means damaged timestamps
_MAX_TIME = 1 << 60
_ASSUMED_RATE = 25  # frames per second, if the file declares no usable rate, as FFmpeg assumes
_USUAL_OF = 9  # the usual duration of a picture is the median of so many


@dataclass(frozen=True)
class ClockRule:
    """The numbers of the rule for one stream.

    Attributes:
        duration: Of a picture, in ticks of the stream, at least 1; used until regular timestamps show it.
        longest: The longest time from one picture to the next, in ticks; a longer one is a jump of the clock.
        tick: Of the stream, in seconds.
    """

    duration: int
    longest: int
    tick: float

    @classmethod
    def of(cls, container: Any, stream: VideoStream) -> ClockRule:
        """The rule for a stream of an open container, from the container's format and the declared frame rate."""
        from av.format import Flags

        tick = float(stream.time_base or 0)
        if tick <= 0:
            return cls(1, _MAX_TICKS, 1 / _ASSUMED_RATE)
        broadcast = bool(container.format.flags & Flags.ts_discont.value)
        seconds = _LONGEST_SHOWN_BROADCAST_S if broadcast else _LONGEST_SHOWN_S
        longest = max(min(round(seconds / tick), _MAX_TICKS), 1)
        rate = float(stream.average_rate or stream.guessed_rate or _ASSUMED_RATE)
        duration = round(1 / (rate * tick)) if rate > 0 else 1
        return cls(min(max(duration, 1), longest), longest, tick)


def stores_presentation_times(container: Any, stream: VideoStream) -> bool:
    """Whether a container stores when pictures are shown, and not only when they are decoded.

    AVI does not. For codecs with a simple order FFmpeg finds it out from the kinds of pictures. For the others it hands
    out presentation times in the order of decoding, which are wrong where pictures are reordered (B-frames).
    """
    context = stream.codec_context
    is_complex = context.codec.canonical_name in ("h264", "hevc", "vvc")
    return not (container.format.name == "avi" and is_complex and context.has_b_frames)


def iter_stamps(
    frames: Iterable[VideoFrame], *, trusts_presentation: bool = True
) -> Iterator[tuple[int | None, VideoFrame]]:
    """Yield each frame with its timestamp in ticks; None if it has none.

    That is its presentation time. As long as no frame has one, or if it is not trusted, the decoding time of the packet
    with which the frame came is as good: it has the same order, and the same distances.
    """
    any_pts = False
    for frame in frames:
        pts = frame.pts if trusts_presentation else None
        any_pts |= pts is not None
        yield (pts if any_pts else frame.dts), frame


def iter_times(
    pictures: Iterable[tuple[int | None, Picture]], rule: ClockRule, *, live: bool = False
) -> Iterator[tuple[int, Picture]]:
    """Yield each picture with the time at which it is shown, in ticks since the first picture.

    Times never run backward. A picture follows the one before it by the difference of their timestamps. Where that is
    not possible, it follows by the usual duration of a picture:

    - The timestamp is missing, or it is odd: it is repeated, lies before the picture shown before, or after the next
      one. Such a picture costs no more than its own time; those after it have the times that their timestamps give.
    - The clock jumps, forward by more than `ClockRule.longest` or backward, and goes on from there. The time goes on
      from where it was.

    Args:
        pictures: Timestamps in ticks, and pictures, in the order of presentation.
        rule: See `ClockRule`.
        live: The pictures come from a camera: do not wait for the next one, which would show that a timestamp is odd.
    """
    clock = _Clock(rule)
    if live:
        for stamp, picture in pictures:
            yield clock.place(stamp, None), picture
        return
    waiting: tuple[int | None, Picture] | None = None
    for following in pictures:
        if waiting is not None:
            yield clock.place(waiting[0], following[0]), waiting[1]
        waiting = following
    if waiting is not None:
        yield clock.place(waiting[0], None), waiting[1]


def find_last_duration(times: Sequence[int], declared: int, rule: ClockRule) -> int:
    """How long the last picture is shown, in ticks: as declared, or as long as the few before it.

    Args:
        times: Of the last pictures, in ticks, ascending; not empty.
        declared: Duration of the last picture in ticks; 0 if none is declared.
        rule: See `ClockRule`.
    """
    if 0 < declared <= rule.longest:
        return declared
    last = list(times)[-_USUAL_OF - 1 :]
    return max(int(statistics.median_low(b - a for a, b in pairwise(last))) if len(last) > 1 else rule.duration, 1)


class _Clock:
    """Places one picture after the other in time; `time` is that of the last, None before the first."""

    def __init__(self, rule: ClockRule) -> None:
        self._rule = rule
        self._offset: int | None = None  # time of a picture minus its timestamp; None before the first timestamp
        self._usual: deque[int] = deque(maxlen=_USUAL_OF)
        self.time: int | None = None

    def place(self, stamp: int | None, following: int | None) -> int:
        """The time of the next picture, in ticks.

        Args:
            stamp: Its timestamp; None if it has none.
            following: The timestamp of the picture after it; None if it has none, or is not known.
        """
        before, self.time = self.time, self._place_after(self.time, stamp, following)
        if before is not None and stamp is not None and self.time - before < self._rule.longest:
            self._usual.append(self.time - before)
        return self.time

    def _place_after(self, before: int | None, stamp: int | None, following: int | None) -> int:
        if before is None:
            self._offset = None if stamp is None else -stamp
            return 0
        usual = before + max(statistics.median_low(self._usual) if self._usual else self._rule.duration, 1)
        if stamp is None:
            return usual
        if self._offset is None:
            self._offset = usual - stamp
            return usual
        fits = self._is_next(before, stamp + self._offset)
        next_fits = following is not None and self._is_next(before, following + self._offset)
        is_odd = next_fits and following is not None and (not fits or following < stamp)
        if is_odd and following is not None:
            return min(usual, before + (following + self._offset - before) // 2)
        if not fits:
            self._offset = usual - stamp
        return stamp + self._offset

    def _is_next(self, before: int, time: int) -> bool:
        return before < time <= min(before + self._rule.longest, _MAX_TIME)
