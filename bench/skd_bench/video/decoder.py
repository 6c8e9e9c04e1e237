"""The decoder behind `decode_clip`: the clip that `straight_decode` defines, in less time where that is safe.

The fast way reads the timestamps of all packets, decodes only the groups of pictures with a chosen frame, and in each
no further than that frame. It is taken only if the packets themselves show that it gives the same clip: timestamps
without a doubt, real key frames (`stream.key_frames`), groups that do not overlap. Every decoded picture must come at
its place, without an error, and so must the first and the last of the video. Otherwise the file is decoded straight.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from skd_bench.video.container import open_container
from skd_bench.video.frame_choice import EMPTY_SPAN_MESSAGE, Ticks, Timetable, choose_positions
from skd_bench.video.resize import FrameResizer
from skd_bench.video.straight_decode import decode_straight
from skd_bench.video.stream.clock import ClockRule, find_last_duration, stores_presentation_times
from skd_bench.video.stream.key_frames import KEY_PREFIX, MAY_HIDE_PICTURES, find_key_frame_test, shows_a_picture
from skd_bench.video.stream.pictures import (
    DecodingCount,
    count_announced_frames,
    find_video_stream,
    iter_packets,
    iter_pictures,
)

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

    from skd_bench.video.types import ClipSpan, Pixels, Preprocessing, Sampling

# A file with at most this many compressed bytes stays in memory after the first pass; a larger one is read again.
_KEEP_BYTES = 4 << 20
# Up to this many decoded pixels, decoder threads cost more time than they save (+50 % at 112x112).
_THREADS_FROM_PIXELS = 40_000_000


class DoubtError(Exception):
    """The fast way may not give the clip of straight decoding.

    Attributes:
        packets: Number of packets of the video; 0 if they were not counted.
    """

    def __init__(self, packets: int) -> None:
        super().__init__("decode straight")
        self.packets = packets


@dataclass(frozen=True)
class PacketTable:
    """What the packets of a stream state; arrays are in decoding order.

    Attributes:
        stamps: Presentation time of each packet, in ticks of the stream.
        key: Whether decoding can start at each packet, by its own bytes.
        shown: False for a packet whose picture is not shown (before the start of an edit list, or hidden).
        origin: Presentation time of the first picture of the video.
        duration: Declared duration of the picture that is shown last, in ticks; 0 if it is not declared.
        complete: Whether the packets reach to the end of the video.
        packets: The packets themselves; None if they are larger than `_KEEP_BYTES` in all.
    """

    stamps: Ticks
    key: npt.NDArray[np.bool_]
    shown: npt.NDArray[np.bool_]
    origin: int
    duration: int
    complete: bool
    packets: list[Packet[VideoStream]] | None


@dataclass(frozen=True)
class _Run:
    """Groups of pictures that are decoded in one go.

    Attributes:
        first: Position of the first packet.
        past: Position after the last packet.
        expected: Stamps of the pictures that it shows, ascending.
        until: The last of them that is needed.
        duration: Duration that this picture must have; None: any.
    """

    first: int
    past: int
    expected: list[int]
    until: int
    duration: int | None


def decode_file(path: Path, sampling: Sampling, preprocess: Preprocessing, span: ClipSpan) -> Pixels:
    """Decode the sampled frames of a file. `decode_clip` wraps this function and turns its errors into `ClipError`.

    Returns:
        uint8 (T, H, W, 3).

    Raises:
        ValueError: Too few frames can be decoded, or the span is empty.
        av.error.FFmpegError: FFmpeg cannot open the file.
    """
    if span.end is not None and span.end <= span.start:
        raise ValueError(EMPTY_SPAN_MESSAGE.format(span))
    guess: Sequence[int] = ()
    try:
        with open_container(path, offset=span.offset, size=span.size) as container:
            stream = find_video_stream(container)
            seeks = can_seek(container, stream, span)
            try:
                table = scan_packets(container, stream, span, seeks=seeks)
                timetable = lay_out(table, ClockRule.of(container, stream), span)
            except DoubtError as doubt:
                guess = _guess_positions(doubt.packets, sampling, span)
                raise
            positions = choose_positions(timetable, sampling, span)
            guess = () if seeks else positions
            chosen = (timetable.times[positions] + table.origin).tolist()
            resizer = FrameResizer(sampling.frames, preprocess, stream.sample_aspect_ratio)
            runs = _plan_runs(table, chosen)
            if table.packets is not None:
                return _decode_runs(stream, table.packets, runs, chosen, resizer)
        with open_container(path, offset=span.offset, size=span.size) as container:
            stream = find_video_stream(container)
            return _decode_runs(stream, _iter_packets_from(container, stream, span, seeks=seeks), runs, chosen, resizer)
    except DoubtError:
        return decode_straight(path, sampling, preprocess, span, guess=guess)


def _guess_positions(packets: int, sampling: Sampling, span: ClipSpan) -> list[int]:
    """Positions of the sampled pictures if there is one for each packet, all equally long; none for a span."""
    if span.is_timed or not packets:
        return []
    return choose_positions(Timetable(np.arange(packets, dtype=np.int64), packets, None), sampling, span)


# ----------------------------------------------------------------------------------------------------------- packets
def can_seek(container: Any, stream: VideoStream, span: ClipSpan) -> bool:
    """Whether reading can start near the start of a span: the container has one clock, and an index.

    A container for broadcast (MPEG-TS) may have changed its clock before the span.
    """
    from av.format import Flags

    if span.start <= 0 or container.format.flags & Flags.ts_discont.value or not stream.time_base:
        return False
    entries = _index_of(stream)
    return len(entries) > 0 and entries.search_timestamp(_to_ticks(stream, span.start), backward=True) >= 0


def _index_of(stream: VideoStream) -> Any:
    return getattr(stream, "index_entries", ())


def _to_ticks(stream: VideoStream, seconds: float) -> int:
    """A time since the start of the video that the header declares, as a timestamp."""
    assert stream.time_base is not None
    return round(seconds / float(stream.time_base)) + (stream.start_time or 0)


def _iter_packets_from(
    container: Any, stream: VideoStream, span: ClipSpan, *, seeks: bool
) -> Iterator[Packet[VideoStream]]:
    """The packets in decoding order; if it `seeks`, from the key frame before the span.

    Raises:
        DoubtError: The container cannot seek.
    """
    from av.error import FFmpegError

    if seeks:
        try:
            container.seek(_to_ticks(stream, span.start), stream=stream, backward=True)
        except FFmpegError as error:
            raise DoubtError(0) from error
    return iter_packets(container, stream)


class _PacketScan:
    """Takes notes of what packets state."""

    def __init__(self, stream: VideoStream, *, is_doubtful: bool) -> None:
        self._codec = stream.codec_context.codec.canonical_name
        self._is_key = find_key_frame_test(self._codec, stream.codec_context.extradata)
        self._stamps, self._keys, self._shown = array("q"), bytearray(), bytearray()  # 10 bytes a packet
        self._bytes = 0
        self._packets: list[Packet[VideoStream]] | None = []
        self.is_doubtful = is_doubtful or self._is_key is None
        self.count = 0
        self.first: Packet[VideoStream] | None = None
        self.latest, self.duration = -(1 << 62), 0  # of the packet that is shown last

    def is_key(self, packet: Packet[VideoStream]) -> bool:
        """Whether decoding can start at a packet."""
        return packet.is_keyframe and self._is_key is not None and self._is_key(bytes(memoryview(packet)[:KEY_PREFIX]))

    def add(self, packet: Packet[VideoStream], *, is_key: bool) -> None:
        """Note the next packet."""
        pts, dts, size, is_discarded = packet.pts, packet.dts, packet.size, packet.is_discard
        shows: bool | None = size > 0
        if self._codec in MAY_HIDE_PICTURES and size:
            shows = shows_a_picture(self._codec, memoryview(packet))
        if pts is None or (dts is not None and pts < dts) or not size or shows is None or packet.is_corrupt:
            self.is_doubtful = True
        elif packet.is_keyframe and packet.has_sidedata("new_extradata"):
            self.is_doubtful = True  # another header for the decoder would be missing if this packet were skipped
        stamp = pts or 0
        if not is_discarded and stamp > self.latest:
            self.latest, self.duration = stamp, packet.duration or 0
        self.first = self.first or packet
        self.count += 1
        self._stamps.append(stamp)
        self._keys.append(is_key)
        self._shown.append(bool(shows) and not is_discarded)
        self._bytes += size
        if self._packets is not None:
            self._packets.append(packet)
            if self._bytes > _KEEP_BYTES:
                self._packets = None

    def make_table(self, *, complete: bool) -> PacketTable:
        """The notes of all packets.

        Raises:
            DoubtError: A packet casts doubt on the fast way.
        """
        ticks, visible = np.asarray(self._stamps, np.int64), np.asarray(self._shown, bool)
        if self.is_doubtful or not visible.any() or not self._keys[0] or ticks[visible].max() < self.latest:
            raise DoubtError(self.count)  # the last: packets without a picture follow the last one
        origin = int(ticks[visible].min())
        return PacketTable(ticks, np.asarray(self._keys, bool), visible, origin, self.duration, complete, self._packets)


def scan_packets(container: Any, stream: VideoStream, span: ClipSpan, *, seeks: bool) -> PacketTable:
    """Read what every packet states, up to the second key frame after the span; decode nothing.

    Raises:
        DoubtError: A packet casts doubt on the fast way.
    """
    scan = _PacketScan(stream, is_doubtful=not stores_presentation_times(container, stream))
    start = next(iter_packets(container, stream), None) if seeks else None
    end = None if span.end is None else _to_ticks(stream, span.end)
    keys_after = 0
    for packet in _iter_packets_from(container, stream, span, seeks=seeks):
        is_key = scan.is_key(packet)
        # A frame is never shown before it is decoded, so a packet with dts >= end cannot belong to the span.
        # A single key frame after the span may have an odd timestamp; a second one shows that it has not.
        keys_after += is_key and end is not None and packet.dts is not None and packet.dts >= end
        if keys_after == 2:
            if packet.pts is None or packet.pts <= scan.latest:
                raise DoubtError(0)
            break
        scan.add(packet, is_key=is_key)
    if not span.is_timed and count_announced_frames(stream, scan.count) > scan.count:
        raise DoubtError(scan.count)
    table = scan.make_table(complete=keys_after < 2)
    if seeks:
        # Pictures that are shown before the first key frame refer to a group that was not read.
        shown = table.shown & (table.stamps >= table.stamps[0])
        table = replace(table, shown=shown, origin=_check_seek(stream, span, start, scan))
    if end is not None and table.origin != (stream.start_time or 0):
        raise DoubtError(scan.count)
    return table


def _check_seek(stream: VideoStream, span: ClipSpan, start: Any, scan: _PacketScan) -> int:
    """The presentation time of the first picture of the video, if seeking led to the span.

    Args:
        stream: The stream.
        span: The span.
        start: The first packet of the video; None if there is none.
        scan: The packets after seeking.

    Raises:
        DoubtError: The index does not agree with the packets, or the video does not start as its header declares.
    """
    entries, found = _index_of(stream), scan.first
    if found is None or found.pts is None or found.pts > _to_ticks(stream, span.start):
        raise DoubtError(0)
    place = entries.search_timestamp(found.pts if found.dts is None else found.dts, backward=True)
    if entries[max(place, 0)].timestamp not in (found.pts, found.dts):
        raise DoubtError(0)
    if start is None or start.is_discard or start.pts != (stream.start_time or 0) or not scan.is_key(start):
        raise DoubtError(0)
    return int(start.pts)


def lay_out(table: PacketTable, rule: ClockRule, span: ClipSpan) -> Timetable:
    """The timetable of the shown pictures, if their timestamps need no repair.

    Raises:
        DoubtError: The timestamps, or the groups of pictures, leave a doubt.
    """
    order = np.sort(table.stamps[table.shown])
    gaps = order[1:] - order[:-1]
    starts, group = np.flatnonzero(table.key), np.cumsum(table.key) - 1
    key_stamps = table.stamps[starts]
    is_repaired = len(gaps) > 0 and (gaps.min() <= 0 or gaps.max() > rule.longest)
    latest_before = np.maximum.accumulate(table.stamps)[starts[1:] - 1]
    earliest = np.concatenate([key_stamps[:1], key_stamps[:-1]])[group]  # the key frame of the group before
    overlap = (latest_before >= key_stamps[1:]).any() or (table.stamps < earliest)[table.shown].any()
    if is_repaired or overlap:
        raise DoubtError(len(table.stamps))
    times = order - table.origin
    end = int(times[-1]) + find_last_duration(times[-16:].tolist(), table.duration, rule)
    if not table.complete and span.end is not None:
        end = max(end, round(span.end / rule.tick))
    return Timetable(times, end, rule.tick)


# ---------------------------------------------------------------------------------------------------------- decoding
def _plan_runs(table: PacketTable, chosen: Sequence[int]) -> list[_Run]:
    """What must be decoded: the chosen frames, and the first and the last picture, which bound the duration.

    Raises:
        DoubtError: A group of pictures shows none of them.
    """
    starts, group = np.flatnonzero(table.key), np.cumsum(table.key) - 1
    key_stamps = table.stamps[starts]
    latest = int(table.stamps[table.shown].max())
    wanted = {*chosen, int(table.stamps[table.shown].min())} | ({latest} if table.complete else set())
    rows = np.flatnonzero(np.isin(table.stamps, list(wanted)) & table.shown)
    needed = set(group[rows].tolist())
    # A frame shown before the key frame of its own group refers to the previous group (an open group of pictures).
    needed |= {int(group[row]) - 1 for row in rows if table.stamps[row] < key_stamps[group[row]]}
    bounds = [*starts.tolist(), len(group)]
    runs: list[_Run] = []
    for begin, past in _join_neighbours(sorted(needed)):
        first, end = bounds[begin], bounds[past]
        stamps = table.stamps[first:end]
        expected = np.sort(stamps[table.shown[first:end] & (stamps >= key_stamps[begin])]).tolist()
        until = max(wanted.intersection(expected), default=None)
        if until is None:
            raise DoubtError(len(group))
        runs.append(_Run(first, end, expected, until, table.duration if until == latest and table.complete else None))
    return runs


def _join_neighbours(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as ranges: the first, and the one after the last."""
    begin = past = numbers[0]
    for number in numbers:
        if number > past:
            yield begin, past
            begin = number
        past = number + 1
    yield begin, past


def _decode_runs(
    stream: VideoStream,
    packets: Iterable[Packet[VideoStream]],
    runs: Sequence[_Run],
    chosen: Sequence[int],
    resizer: FrameResizer,
) -> Pixels:
    """Decode runs in the order of presentation and write each chosen frame when it appears.

    Raises:
        DoubtError: A picture does not come as its packet declares it.
    """
    context: Any = stream.codec_context
    pixel_count = sum(run.past - run.first for run in runs) * context.width * context.height
    context.thread_type = "AUTO" if pixel_count > _THREADS_FROM_PIXELS else "NONE"
    if pixel_count <= _THREADS_FROM_PIXELS:
        context.thread_count = 1
    remaining = enumerate(packets)
    for run in runs:
        if run is not runs[0]:
            context.flush_buffers()
        _decode_run(context, _take_run(remaining, run), run, chosen, resizer)
    if resizer.done < len(chosen):
        raise DoubtError(0)
    return resizer.out


def _take_run(remaining: Iterator[tuple[int, Packet[VideoStream]]], run: _Run) -> Iterator[Packet[VideoStream]]:
    """The packets of a run, from all that remain; those before it are left out."""
    for number, packet in remaining:
        if number >= run.first:
            yield packet
        if number + 1 >= run.past:
            return


def _decode_run(
    context: Any,
    packets: Iterable[Packet[VideoStream]],
    run: _Run,
    chosen: Sequence[int],
    resizer: FrameResizer,
) -> None:
    count, expected = DecodingCount(), iter(run.expected)
    for frame in iter_pictures(context, packets, count):
        stamp = frame.pts
        if stamp is not None and stamp < run.expected[0]:
            continue  # it refers to a group that is not decoded, and no chosen frame does
        if count.broken or stamp is None or stamp != next(expected, None):
            raise DoubtError(0)
        while resizer.done < len(chosen) and chosen[resizer.done] == stamp:
            resizer.write_frame(frame)
        if stamp == run.until:
            if run.duration is not None and frame.duration != run.duration:
                raise DoubtError(0)
            return
    raise DoubtError(0)
