"""The decoding behind `clips.decode_clip`: which frames of a video are wanted, and a decoder that does no more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from skd_bench.fitting import Painter

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from skd_bench.clips import Pixels, Preprocess, Sampling

Ticks = npt.NDArray[np.int64]

# Compressed bytes kept from the first pass, so that a small file is read once; a larger one is demuxed again.
_KEEP_BYTES = 4 << 20
# Below this many pixels in what is decoded, starting decoder threads costs more than they save (112x112: +50 %).
_THREADS_FROM_PIXELS = 40_000_000


@dataclass
class _Timeline:
    """What the demuxing pass learns about a video, in decoding order.

    Attributes:
        stamps: Presentation time of each packet, in ticks of the stream; positions 0, 1, ... where `timed` is false.
        key: Whether each packet starts a group of pictures.
        shown: False for a packet that is only decoded for others to lean on (before the start of an edit list).
        last: Ticks for which the last frame is shown.
        timed: False where the container stores no usable timestamps; frames then count as equally long.
        announced: Frames that the file says it holds.
        packets: The packets themselves, while they are few.
    """

    stamps: Ticks
    key: npt.NDArray[np.bool_]
    shown: npt.NDArray[np.bool_]
    last: int
    timed: bool
    announced: int
    packets: list[Packet[VideoStream]] | None


def _open(path: Path) -> Any:
    import av

    # "file:" keeps a colon in the name from being read as a protocol; the whitelist keeps playlists off the network.
    return av.open(f"file:{path}", metadata_errors="ignore", options={"protocol_whitelist": "file"})


def _video_stream(container: Any) -> VideoStream:
    if not container.streams.video:
        raise ValueError("it holds no video")
    stream: VideoStream = container.streams.video[0]
    if stream.codec_context is None:
        raise ValueError("this FFmpeg has no decoder for its video")
    return stream


def _demux(container: Any, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
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


def _scan(container: Any, stream: VideoStream) -> _Timeline:
    """Read every packet's timestamp; decode nothing."""
    stamps: list[int | None] = []
    keys: list[bool] = []
    shown: list[bool] = []
    latest, last_duration, kept_bytes = -(1 << 62), 0, 0
    kept: list[Packet[VideoStream]] | None = []
    for packet in _demux(container, stream):
        pts = packet.pts
        stamps.append(pts)
        keys.append(packet.is_keyframe)
        shown.append(not packet.is_discard)
        if shown[-1] and pts is not None and pts > latest:
            latest, last_duration = pts, packet.duration or 0
        kept_bytes += packet.size
        if kept is not None:
            kept.append(packet)
            if kept_bytes > _KEEP_BYTES:
                kept = None
    known = [s for s in stamps if s is not None]
    timed = bool(known) and len(set(known)) == len(stamps)
    visible = np.asarray(shown, bool)
    ticks = np.asarray(known, np.int64) if timed else np.cumsum(visible) - 1
    if timed and last_duration <= 0 and visible.sum() > 1:
        last_duration = int(np.median(np.diff(np.sort(ticks[visible]))))
    return _Timeline(
        stamps=ticks,
        key=np.asarray(keys, bool),
        shown=visible,
        last=max(last_duration, 1) if timed else 1,
        timed=timed,
        # An edit list takes frames out of the index but not out of the file's own count, so the index is asked first.
        announced=max(len(getattr(stream, "index_entries", ())) or stream.frames, len(stamps)),
        packets=kept,
    )


# ------------------------------------------------------------------------------------------------------- choosing
def _chosen(timeline: _Timeline, sampling: Sampling) -> Ticks:
    """The stamps of the T sampled frames, ascending; repeated where a frame is shown more than once."""
    shown = np.sort(timeline.stamps[timeline.shown])
    count, frames = len(shown), sampling.frames
    if sampling.kind == "dense":
        first = (count - ((frames - 1) * sampling.stride + 1)) // 2
        picks = np.clip(first + np.arange(frames) * sampling.stride, 0, count - 1)
    else:
        # Middle of segment k: (2k + 1) / 2T of the duration, all times 2T so that nothing here is rounded. Containers
        # round (Matroska to 1 ms), so a middle that falls a tick or two before a frame belongs to that frame.
        since_start = shown - shown[0]
        duration = int(since_start[-1]) + timeline.last
        middles = (2 * np.arange(frames, dtype=np.int64) + 1) * duration
        slack = min(4 * frames, frames * duration // (4 * count))  # two ticks, or 1/8 of a frame where that is less
        picks = np.searchsorted(since_start * (2 * frames), middles + slack, side="right") - 1
    return shown[picks]


def _needed_groups(timeline: _Timeline, chosen: Ticks) -> tuple[Ticks, set[int]]:
    """The group of pictures of each packet, and the groups that must be decoded for the chosen frames."""
    group = np.cumsum(timeline.key, dtype=np.int64)
    if not timeline.timed:
        return group, set(group.tolist())
    rows = np.flatnonzero(np.isin(timeline.stamps, chosen))
    needed = set(group[rows].tolist())
    starts = {int(g): int(s) for g, s in zip(group[timeline.key], timeline.stamps[timeline.key], strict=True)}
    # A frame shown before the key frame of its own group leans on the group before it (an open group).
    needed |= {int(group[r]) - 1 for r in rows if timeline.stamps[r] < starts.get(int(group[r]), -(1 << 62))}
    return group, needed


# ------------------------------------------------------------------------------------------------------- decoding
def decode_file(path: Path, sampling: Sampling, preprocess: Preprocess) -> Pixels:
    """Decode the sampled frames of a file: see `clips.decode_clip`, which turns what is raised here into words.

    Returns:
        uint8 (T, H, W, 3).

    Raises:
        ValueError: Too little of the file can be decoded.
        av.error.FFmpegError: FFmpeg cannot open it.
    """
    with _open(path) as container:
        stream = _video_stream(container)
        timeline = _scan(container, stream)
        if not timeline.shown.any():
            raise ValueError("it holds no frame (cut off, or no video inside)")
        if 2 * len(timeline.stamps) < timeline.announced:
            raise ValueError(f"it is cut off: {len(timeline.stamps)} of {timeline.announced} frames are there")
        painter = Painter(sampling.frames, preprocess, stream.sample_aspect_ratio)
        chosen = _chosen(timeline, sampling)
        if timeline.packets is not None:
            return _decode_chosen(stream, iter(timeline.packets), timeline, chosen, painter)
    with _open(path) as container:
        stream = _video_stream(container)
        return _decode_chosen(stream, _demux(container, stream), timeline, chosen, painter)


def _decode_chosen(
    stream: VideoStream,
    packets: Iterable[Packet[VideoStream]],
    timeline: _Timeline,
    chosen: Ticks,
    painter: Painter,
) -> Pixels:
    """Decode what is needed, in the order of presentation, and paint each chosen frame as it comes by."""
    group, needed = _needed_groups(timeline, chosen)
    context = stream.codec_context
    work = int(np.isin(group, list(needed)).sum()) * context.width * context.height
    context.thread_type = "AUTO" if work > _THREADS_FROM_PIXELS else "NONE"
    if work <= _THREADS_FROM_PIXELS:
        context.thread_count = 1
    expected = int((timeline.shown & np.isin(group, list(needed)) & (timeline.stamps <= chosen[-1])).sum())
    held: VideoFrame | None = None
    good = 0
    for position, frame in enumerate(_frames(context, packets, group, needed)):
        stamp = frame.pts if timeline.timed else position
        good += not frame.is_corrupt
        while held is not None and painter.done < len(chosen) and stamp is not None and stamp > chosen[painter.done]:
            painter.paint(held)
        held = frame
        while painter.done < len(chosen) and stamp == chosen[painter.done]:
            painter.paint(frame)
        if painter.done == len(chosen):
            break
    if held is None:
        raise ValueError("none of its frames decodes")
    cut_off = timeline.announced - len(timeline.stamps)
    lost = cut_off + max(expected - good, 0)
    if 2 * lost > expected + cut_off:
        raise ValueError(f"it is damaged: {lost} of {expected + cut_off} frames are lost")
    while painter.done < len(chosen):
        painter.paint(held)
    return painter.out


def _frames(
    context: Any, packets: Iterable[Packet[VideoStream]], group: Ticks, needed: set[int]
) -> Iterator[VideoFrame]:
    """Decoded frames in the order of presentation, without the groups of pictures that nobody asked for."""
    from av.error import FFmpegError

    def decoded(packet: Packet[VideoStream] | None) -> list[VideoFrame]:
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
            yield from decoded(None)
            context.flush_buffers()
        started, skipping = True, False
        yield from decoded(packet)
    yield from decoded(None)
