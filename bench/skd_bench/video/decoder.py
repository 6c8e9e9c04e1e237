"""The decoding behind `clips.decode_clip`: which frames of a video are wanted, and a decoder that does no more."""

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

# Compressed bytes kept from the first pass, so that a small file is read once; a larger one is demuxed again.
_KEEP_BYTES = 4 << 20
# Below this many pixels in what is decoded, starting decoder threads costs more than they save (112x112: +50 %).
_THREADS_FROM_PIXELS = 40_000_000
# A span of ticks beyond this (centuries) is a broken file's; frames are counted instead.
_MAX_TICKS = 1 << 42
_EMPTY_SPAN_MESSAGE = "the span from {0.start:g} s is empty, or begins where the video has ended"


@dataclass
class _Timeline:
    """What the demuxing pass learns about a video, in decoding order.

    Attributes:
        stamps: Presentation time of each packet, in ticks of the stream; positions 0, 1, ... where `timed` is false.
        key: Whether each packet starts a group of pictures.
        shown: False for a packet that is only decoded for others to lean on (before the start of an edit list).
        start: Where the clip begins, in ticks.
        duration: Of the clip, in ticks, at least 1.
        timed: False where the container stores no usable timestamps; frames then count as equally long.
        announced: Frames that the file says it holds.
        packets: The packets themselves, while they are few.
    """

    stamps: Ticks
    key: npt.NDArray[np.bool_]
    shown: npt.NDArray[np.bool_]
    start: int
    duration: int
    timed: bool
    announced: int
    packets: list[Packet[VideoStream]] | None


def _find_video_stream(container: Any) -> VideoStream:
    from av.stream import Disposition

    pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]  # covers of sound
    if not pictures:
        raise ValueError("it holds no video")
    stream: VideoStream = pictures[0]
    context = stream.codec_context
    if context is None:
        raise ValueError("this FFmpeg has no decoder for its video")
    if context.width * context.height > MAX_PIXELS:
        raise ValueError(f"it says that its frames have {context.width}x{context.height} pixels, which is too large")
    context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def _iter_packets(container: Any, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The stream's packets; a file cut off in the middle ends quietly."""
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
    """A time of the video, given in seconds from its start, in the stream's ticks."""
    assert stream.time_base is not None
    return round(Fraction(seconds) / stream.time_base) + (stream.start_time or 0)


def _iter_span_packets(
    container: Any, stream: VideoStream, span: ClipSpan, seek_first: bool
) -> Iterator[Packet[VideoStream]]:
    """The packets up to the end of a span of time, in decoding order; ``seek_first``: from the key frame before it."""
    if seek_first:
        container.seek(_seconds_to_ticks(stream, span.start), stream=stream, backward=True)
    packets = _iter_packets(container, stream)
    if span.end is None:
        return packets
    end = _seconds_to_ticks(stream, span.end)
    # No frame is shown before it is decoded.
    return takewhile(lambda packet: packet.dts is None or packet.dts < end, packets)


def _scan_timeline(container: Any, stream: VideoStream, span: ClipSpan, seek_first: bool) -> _Timeline:
    """Read every packet's timestamp; decode nothing.

    Raises:
        _Astray: Seeking does not lead to the key frame before the span of time.
        ValueError: The span cannot be found.
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
            raise ValueError("it holds no timestamps, so a span of time cannot be found in it")
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
    """Frames that the file says it holds, at least those that are ``packet_count``.

    An edit list takes frames out of the index but not out of the file's own count, so the index is asked first.
    """
    return max(len(getattr(stream, "index_entries", ())) or stream.frames, packet_count)


def _restrict_to_span(
    ticks: Ticks, visible: npt.NDArray[np.bool_], past: int, stream: VideoStream, span: ClipSpan
) -> tuple[int, int, npt.NDArray[np.bool_]]:
    """First tick of a span of time, the tick past its last, and which packets hold a frame that is shown within."""
    first = _seconds_to_ticks(stream, span.start)
    last = past if span.end is None else min(_seconds_to_ticks(stream, span.end), past)
    if first >= last:
        raise ValueError(_EMPTY_SPAN_MESSAGE.format(span))
    before = ticks[visible & (ticks <= first)]
    since = int(before.max()) if len(before) else first  # the frame that is still shown when the span begins
    return first, last, visible & (ticks >= since) & (ticks < last)


# ------------------------------------------------------------------------------------------------------- choosing
def _choose_stamps(timeline: _Timeline, sampling: Sampling) -> Ticks:
    """The stamps of the T sampled frames, ascending; repeated where a frame is shown more than once."""
    shown = np.sort(timeline.stamps[timeline.shown])
    count, frames, duration = len(shown), sampling.frames, timeline.duration
    since_start = shown - timeline.start
    # Times are ``wanted / scale`` of the duration, so that nothing is rounded here. Containers round (Matroska to 1
    # ms), so a time that falls a tick or two before a frame belongs to that frame; at most an eighth of a frame is so.
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
    """Times of frames ``stride`` apart around the middle of each part, in 1 / (4 segments) of an average frame.

    A quarter of a frame is added, so that between two frames the earlier one is meant, whatever the parity.
    """
    parts, stride, each = sampling.segments, sampling.stride, sampling.frames // sampling.segments
    middles = 2 * count * (2 * np.arange(parts, dtype=np.int64) + 1)
    offsets = 4 * stride * np.arange(each, dtype=np.int64) - 2 * ((each - 1) * stride + 1) + 1
    first = 4 * count * np.arange(parts, dtype=np.int64)
    times = middles[:, None] + parts * offsets
    # Held inside the part: its first frame begins with it, its last ends with it.
    return np.asarray(times.clip(first[:, None], (first + max(4 * count - parts, 0))[:, None]).ravel(), np.int64)


def _find_needed_groups(timeline: _Timeline, chosen: Ticks) -> tuple[Ticks, set[int]]:
    """The group of pictures of each packet, and the groups that must be decoded for the chosen frames."""
    group = np.cumsum(timeline.key, dtype=np.int64)
    if not timeline.timed or group[0] == group[-1]:
        return group, set(group.tolist())
    rows = np.flatnonzero(np.isin(timeline.stamps, chosen))
    needed = set(group[rows].tolist())
    starts = {int(g): int(s) for g, s in zip(group[timeline.key], timeline.stamps[timeline.key], strict=True)}
    # A frame shown before the key frame of its own group leans on the group before it (an open group).
    needed |= {int(group[r]) - 1 for r in rows if timeline.stamps[r] < starts.get(int(group[r]), -(1 << 62))}
    return group, needed


# ------------------------------------------------------------------------------------------------------- decoding
def decode_file(path: Path, sampling: Sampling, preprocess: Preprocessing, span: ClipSpan) -> Pixels:
    """Decode the sampled frames of a file: see `clips.decode_clip`, which turns what is raised here into words.

    Returns:
        uint8 (T, H, W, 3).

    Raises:
        ValueError: Too little of the file can be decoded.
        av.error.FFmpegError: FFmpeg cannot open it.
    """
    from av.error import FFmpegError

    if span.end is not None and span.end <= span.start:
        raise ValueError(_EMPTY_SPAN_MESSAGE.format(span))
    if span.start > 0:
        with suppress(_SeekError, FFmpegError):
            return _decode_frames(path, sampling, preprocess, span, seek_first=True)
    return _decode_frames(path, sampling, preprocess, span, seek_first=False)


class _SeekError(Exception):
    """Seeking leads elsewhere (MPEG-TS has no index): everything before the span has to be read."""


def _decode_frames(
    path: Path, sampling: Sampling, preprocess: Preprocessing, span: ClipSpan, *, seek_first: bool
) -> Pixels:
    with open_container(path, offset=span.offset, size=span.size) as container:
        stream = _find_video_stream(container)
        timeline = _scan_timeline(container, stream, span, seek_first)
        if not timeline.shown.any():
            raise ValueError("it holds no frame (cut off, or no video inside)")
        if 2 * len(timeline.stamps) < timeline.announced:
            raise ValueError(f"it is cut off: {len(timeline.stamps)} of {timeline.announced} frames are there")
        resizer = FrameResizer(sampling.frames, preprocess, stream.sample_aspect_ratio)
        chosen = _choose_stamps(timeline, sampling)
        if timeline.packets is not None:
            return _decode_chosen_frames(stream, iter(timeline.packets), timeline, chosen, resizer)
    with open_container(path, offset=span.offset, size=span.size) as container:
        stream = _find_video_stream(container)
        return _decode_chosen_frames(
            stream, _iter_span_packets(container, stream, span, seek_first), timeline, chosen, resizer
        )


def _decode_chosen_frames(
    stream: VideoStream,
    packets: Iterable[Packet[VideoStream]],
    timeline: _Timeline,
    chosen: Ticks,
    resizer: FrameResizer,
) -> Pixels:
    """Decode what is needed, in the order of presentation, and paint each chosen frame as it comes by."""
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
        raise ValueError("none of its frames decodes")
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
    """Decoded frames in the order of presentation, without the groups of pictures that nobody asked for."""
    from av.error import FFmpegError

    def decode_packet(packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        """What the decoder gives for one more packet (None: what it still holds); nothing for a damaged one."""
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
