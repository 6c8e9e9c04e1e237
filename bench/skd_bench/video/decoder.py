"""The decoder behind `decode_clip`: chooses the frames of a clip and decodes no more than these frames need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from skd_bench.video.container import MAX_PIXELS, open_container
from skd_bench.video.resize import FrameResizer

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from skd_bench.video.types import ClipSpan, Pixels, Preprocessing, Sampling

Ticks = npt.NDArray[np.int64]

# A file with at most this many compressed bytes stays in memory after the first pass; a larger one is read again.
_KEEP_BYTES = 4 << 20
# Up to this many decoded pixels, decoder threads cost more time than they save (+50 % at 112x112).
_THREADS_FROM_PIXELS = 40_000_000
# A longer duration in ticks (centuries) means damaged timestamps; frames are then counted instead.
_MAX_TICKS = 1 << 42
_EMPTY_SPAN_MESSAGE = "the span from {0.start:g} s is empty, or starts after the end of the video"


@dataclass
class _Timeline:
    """Result of the first pass over a video; arrays are in decoding order.

    Attributes:
        stamps: Presentation time of each packet, in ticks of the stream; positions 0, 1, ... if `timed` is false.
        key: Whether each packet starts a group of pictures.
        shown: False for a packet that is decoded only as a reference (before the start of an edit list).
        start: Start of the clip, in ticks.
        duration: Duration of the clip, in ticks, at least 1.
        timed: False if the container stores no usable timestamps; all frames then have the same duration.
        announced: Number of frames that the file declares.
        packets: The packets themselves; None if they are larger than `_KEEP_BYTES` in all.
    """

    stamps: Ticks
    key: npt.NDArray[np.bool_]
    shown: npt.NDArray[np.bool_]
    start: int
    duration: int
    timed: bool
    announced: int
    packets: list[Packet[VideoStream]] | None


def find_video_stream(container: Any) -> VideoStream:
    """The first video stream of an open container that is not the cover picture of a sound file.

    Raises:
        ValueError: There is none, it has no decoder here, or its frames are too large.
    """
    from av.stream import Disposition

    pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]  # no album covers
    if not pictures:
        raise ValueError("it contains no video")
    stream: VideoStream = pictures[0]
    context = stream.codec_context
    if context is None:
        raise ValueError("FFmpeg has no decoder for its video codec")
    if context.width * context.height > MAX_PIXELS:
        raise ValueError(f"its header declares frames of {context.width}x{context.height} pixels, which is too large")
    context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def _iter_packets(container: Any, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """Yield the packets of a stream. A truncated file ends without an error; the caller counts the frames."""
    from av.error import EOFError as EndOfFile
    from av.error import InvalidDataError

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (EndOfFile, InvalidDataError):
            return
        if packet is None or (packet.pts is None and packet.dts is None and packet.size == 0):
            return
        yield packet


def _seconds_to_ticks(stream: VideoStream, seconds: float) -> int:
    """Convert seconds from the start of the video to ticks of the stream."""
    assert stream.time_base is not None
    return round(Fraction(seconds) / stream.time_base) + (stream.start_time or 0)


def _iter_span_packets(
    container: Any, stream: VideoStream, span: ClipSpan, seek_first: bool
) -> Iterator[Packet[VideoStream]]:
    """The packets up to the end of a span, in decoding order; with ``seek_first``, from the key frame before it."""
    if seek_first:
        container.seek(_seconds_to_ticks(stream, span.start), stream=stream, backward=True)
    packets = _iter_packets(container, stream)
    if span.end is None:
        return packets
    end = _seconds_to_ticks(stream, span.end)
    # A frame is never shown before it is decoded, so a packet with dts >= end cannot belong to the span.
    return takewhile(lambda packet: packet.dts is None or packet.dts < end, packets)


def scan_timeline(container: Any, stream: VideoStream, span: ClipSpan, seek_first: bool) -> _Timeline:
    """Read every packet's timestamp; decode nothing.

    Raises:
        _SeekError: Seeking did not lead to a key frame before the span.
        ValueError: The span is empty, or the file has no timestamps to find it.
    """
    stamps: list[int | None] = []
    keys: list[bool] = []
    shown: list[bool] = []
    latest, last_duration, packet_bytes = -(1 << 62), 0, 0
    packets: list[Packet[VideoStream]] | None = []
    for packet in _iter_span_packets(container, stream, span, seek_first):
        pts = packet.pts
        stamps.append(pts)
        keys.append(packet.is_keyframe)
        shown.append(not packet.is_discard)
        if shown[-1] and pts is not None and pts > latest:
            latest, last_duration = pts, packet.duration or 0
        packet_bytes += packet.size
        if packets is not None:
            packets.append(packet)
            if packet_bytes > _KEEP_BYTES:
                packets = None
    known_stamps = [s for s in stamps if s is not None]
    timed = (
        bool(known_stamps)
        and len(set(known_stamps)) == len(stamps)
        and max(known_stamps) - min(known_stamps) < _MAX_TICKS
    )
    visible = np.asarray(shown, bool)
    ticks = np.asarray(known_stamps, np.int64) if timed else np.cumsum(visible) - 1
    if timed and last_duration <= 0 and visible.sum() > 1:
        last_duration = int(np.median(np.diff(np.sort(ticks[visible]))))
    first, past = 0, 0
    if visible.any():
        first = int(ticks[visible].min())
        past = int(ticks[visible].max()) + (max(min(last_duration, _MAX_TICKS), 1) if timed else 1)
    if span.is_timed:
        if seek_first and not (
            timed and (ticks[np.asarray(keys, bool)] <= _seconds_to_ticks(stream, span.start)).any()
        ):
            raise _SeekError
        if not timed:
            raise ValueError("it stores no timestamps, so a span of time cannot be found in it")
        first, past, visible = _restrict_to_span(ticks, visible, past, stream, span)
    return _Timeline(
        stamps=ticks,
        key=np.asarray(keys, bool),
        shown=visible,
        start=first,
        duration=max(past - first, 1),
        timed=timed,
        announced=len(stamps) if span.is_timed else _count_announced_frames(stream, len(stamps)),
        packets=packets,
    )


def _count_announced_frames(stream: VideoStream, packet_count: int) -> int:
    """Number of frames that the file declares, at least ``packet_count``.

    An edit list removes frames from the index but not from the frame count in the header, so the index has priority.
    """
    return max(len(getattr(stream, "index_entries", ())) or stream.frames, packet_count)


def _restrict_to_span(
    ticks: Ticks, visible: npt.NDArray[np.bool_], past: int, stream: VideoStream, span: ClipSpan
) -> tuple[int, int, npt.NDArray[np.bool_]]:
    """First tick of a span, the tick after its last, and a mask of the packets whose frame is shown in the span."""
    first = _seconds_to_ticks(stream, span.start)
    last = past if span.end is None else min(_seconds_to_ticks(stream, span.end), past)
    if first >= last:
        raise ValueError(_EMPTY_SPAN_MESSAGE.format(span))
    before = ticks[visible & (ticks <= first)]
    since = int(before.max()) if len(before) else first  # the frame that is still shown when the span starts
    return first, last, visible & (ticks >= since) & (ticks < last)


# ------------------------------------------------------------------------------------------------------- choosing
def choose_stamps(timeline: _Timeline, sampling: Sampling) -> Ticks:
    """The stamps of the T sampled frames, ascending; a frame that is sampled several times is repeated."""
    shown = np.sort(timeline.stamps[timeline.shown])
    count, frames, duration = len(shown), sampling.frames, timeline.duration
    since_start = shown - timeline.start
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
    picks = np.searchsorted(since_start, np.asarray(ticks, np.int64), side="right") - 1
    return np.asarray(shown[picks.clip(0, count - 1)], np.int64)


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


def _find_needed_groups(timeline: _Timeline, chosen: Ticks) -> tuple[Ticks, set[int]]:
    """Number of each packet's group of pictures, and the groups that must be decoded for the chosen frames."""
    group = np.cumsum(timeline.key, dtype=np.int64)
    if not timeline.timed or group[0] == group[-1]:
        return group, set(group.tolist())
    rows = np.flatnonzero(np.isin(timeline.stamps, chosen))
    needed = set(group[rows].tolist())
    starts = {int(g): int(s) for g, s in zip(group[timeline.key], timeline.stamps[timeline.key], strict=True)}
    # A frame shown before the key frame of its own group refers to the previous group (an open group of pictures).
    needed |= {int(group[r]) - 1 for r in rows if timeline.stamps[r] < starts.get(int(group[r]), -(1 << 62))}
    return group, needed


# ------------------------------------------------------------------------------------------------------- decoding
def decode_file(path: Path, sampling: Sampling, preprocess: Preprocessing, span: ClipSpan) -> Pixels:
    """Decode the sampled frames of a file. `decode_clip` wraps this function and turns its errors into `ClipError`.

    Returns:
        uint8 (T, H, W, 3).

    Raises:
        ValueError: Too few frames can be decoded, or the span is empty.
        av.error.FFmpegError: FFmpeg cannot open the file.
    """
    from av.error import FFmpegError

    if span.end is not None and span.end <= span.start:
        raise ValueError(_EMPTY_SPAN_MESSAGE.format(span))
    if span.start > 0:
        with suppress(_SeekError, FFmpegError):
            return _decode_frames(path, sampling, preprocess, span, seek_first=True)
    return _decode_frames(path, sampling, preprocess, span, seek_first=False)


class _SeekError(Exception):
    """Seeking did not lead to the span (MPEG-TS has no index); the file must be read from its start."""


def _decode_frames(
    path: Path, sampling: Sampling, preprocess: Preprocessing, span: ClipSpan, *, seek_first: bool
) -> Pixels:
    with open_container(path, offset=span.offset, size=span.size) as container:
        stream = find_video_stream(container)
        timeline = scan_timeline(container, stream, span, seek_first)
        if not timeline.shown.any():
            raise ValueError("it contains no frames (cut off, or not a video)")
        if 2 * len(timeline.stamps) < timeline.announced:
            raise ValueError(f"it is cut off: it has only {len(timeline.stamps)} of {timeline.announced} frames")
        resizer = FrameResizer(sampling.frames, preprocess, stream.sample_aspect_ratio)
        chosen = choose_stamps(timeline, sampling)
        if timeline.packets is not None:
            return _decode_chosen_frames(stream, iter(timeline.packets), timeline, chosen, resizer)
    with open_container(path, offset=span.offset, size=span.size) as container:
        stream = find_video_stream(container)
        packets = _iter_span_packets(container, stream, span, seek_first)
        return _decode_chosen_frames(stream, packets, timeline, chosen, resizer)


def _decode_chosen_frames(
    stream: VideoStream,
    packets: Iterable[Packet[VideoStream]],
    timeline: _Timeline,
    chosen: Ticks,
    resizer: FrameResizer,
) -> Pixels:
    """Decode the needed groups in the order of presentation and write each chosen frame when it appears."""
    group, needed = _find_needed_groups(timeline, chosen)
    context = stream.codec_context
    is_needed = np.isin(group, list(needed))
    pixel_count = int(is_needed.sum()) * context.width * context.height
    context.thread_type = "AUTO" if pixel_count > _THREADS_FROM_PIXELS else "NONE"
    if pixel_count <= _THREADS_FROM_PIXELS:
        context.thread_count = 1
    expected = int((timeline.shown & is_needed & (timeline.stamps <= chosen[-1])).sum())
    last_frame: VideoFrame | None = None
    intact_count, wanted = 0, chosen.tolist()
    for position, frame in enumerate(_iter_decoded_frames(context, packets, group, needed)):
        stamp = frame.pts if timeline.timed else position
        intact_count += not frame.is_corrupt
        while (
            last_frame is not None and stamp is not None and resizer.done < len(wanted) and stamp > wanted[resizer.done]
        ):
            resizer.write_frame(last_frame)
        last_frame = frame
        while resizer.done < len(wanted) and stamp == wanted[resizer.done]:
            resizer.write_frame(frame)
        if resizer.done == len(wanted):
            break
    if last_frame is None:
        raise ValueError("no frame can be decoded")
    cut_off = timeline.announced - len(timeline.stamps)
    lost = cut_off + max(expected - intact_count, 0)
    if 2 * lost > expected + cut_off:
        raise ValueError(f"it is damaged: {lost} of {expected + cut_off} frames are lost")
    while resizer.done < len(chosen):
        resizer.write_frame(last_frame)
    return resizer.out


def _iter_decoded_frames(
    context: Any, packets: Iterable[Packet[VideoStream]], group: Ticks, needed: set[int]
) -> Iterator[VideoFrame]:
    """Yield decoded frames in the order of presentation; groups of pictures that are not needed are skipped."""
    from av.error import FFmpegError

    def decode_packet(packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        """Frames that one more packet yields (None: the frames still in the decoder); none for a damaged packet."""
        try:
            frames: list[VideoFrame] = context.decode(packet)
        except FFmpegError:
            return []
        return frames

    started = skipping = False
    for packet, number in zip(packets, group.tolist(), strict=False):
        if number not in needed:
            skipping = started
            continue
        if skipping:
            yield from decode_packet(None)
            context.flush_buffers()
        started, skipping = True, False
        yield from decode_packet(packet)
    yield from decode_packet(None)
