"""The video stream of an open container, its packets, the pictures that FFmpeg makes of them, and their times."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skd_bench.video.container import MAX_PIXELS
from skd_bench.video.stream.clock import (
    ClockRule,
    find_last_duration,
    iter_stamps,
    iter_times,
    stores_presentation_times,
)
from skd_bench.video.stream.key_frames import INDEPENDENT_PICTURES
from skd_bench.video.stream.packet_trail import PacketTrail

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


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
    options = {"max_pixels": str(MAX_PIXELS)}
    if context.codec.canonical_name in INDEPENDENT_PICTURES:
        # An error in a picture is one of its packet: nothing conceals it, so the rest would be whatever lies in memory.
        options["err_detect"] = "explode"
    context.options = options
    return stream


def iter_packets(container: Any, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
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


def count_announced_frames(stream: VideoStream, packet_count: int) -> int:
    """Number of frames that the file declares, at least ``packet_count``.

    An edit list removes frames from the index but not from the frame count in the header, so the index has priority.
    """
    return max(len(getattr(stream, "index_entries", ())) or stream.frames, packet_count)


@dataclass
class DecodingCount:
    """What happened to the packets that were decoded.

    Attributes:
        packets: Number of packets.
        pictures: Number of pictures.
        intact: Number of pictures without a reported error.
        broken: Number of packets that could not be decoded, and of pictures with a reported error. A packet without
            a picture is not one of them: in a screen recording it says that nothing changed.
    """

    packets: int = 0
    pictures: int = 0
    intact: int = 0
    broken: int = 0

    def add_broken(self) -> None:
        """Count a packet that cannot be decoded."""
        self.broken += 1

    def add_packet(self) -> None:
        """Count a packet."""
        self.packets += 1

    def add_pictures(self, frames: Sequence[VideoFrame]) -> None:
        """Count the pictures of a packet."""
        broken = sum(frame.is_corrupt for frame in frames)
        self.pictures += len(frames)
        self.broken += broken
        self.intact += len(frames) - broken

    def explain_loss(self, announced: int) -> str | None:
        """Why the file is too damaged, that is, by more than half; None if it is not.

        Args:
            announced: Number of packets that the file declares.
        """
        if self.packets == 0:
            return "it contains no frames (cut off, or not a video)"
        if 2 * self.packets < announced:
            return f"it is cut off: it has only {self.packets} of {announced} frames"
        if self.pictures == 0:
            return "no frame can be decoded"
        lost = announced - self.packets + self.broken
        if 2 * lost > lost + self.intact:
            return f"it is damaged: {lost} of {lost + self.intact} frames are lost"
        return None


def iter_pictures(context: Any, packets: Iterable[Packet[VideoStream]], count: DecodingCount) -> Iterator[VideoFrame]:
    """Yield the pictures of packets in FFmpeg's order of presentation, to the last one in the decoder.

    Args:
        context: The stream's codec context.
        packets: From a key frame, in decoding order.
        count: Receives the numbers of packets and pictures.
    """
    from av.error import FFmpegError

    def decode_packet(packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        try:
            frames: list[VideoFrame] = context.decode(packet)
        except FFmpegError:
            count.add_broken()
            return []
        count.add_pictures(frames)
        return frames

    is_independent = context.codec.canonical_name in INDEPENDENT_PICTURES
    for packet in packets:
        count.add_packet()
        if packet.is_corrupt and is_independent:
            count.add_broken()  # what is missing of such a picture would be whatever lies in memory
        elif packet.size:  # to the decoder, an empty packet is the end of the stream
            yield from decode_packet(packet)
    yield from decode_packet(None)


class TimedPictures:
    """All pictures of an open video, each with the time at which it is shown; `straight_decode` has the contract.

    Iterating yields that time, in ticks of the stream since the first picture, and the frame.

    Args:
        container: An open container.
        threads: Number of decoder threads.
        live: The container is a camera; see `iter_times`.

    Attributes:
        stream: The video stream.
        rule: The rule of its clock; `rule.tick` is a tick in seconds.
        has_timestamps: Whether any picture so far had a timestamp; if none has one, all last equally long.

    Raises:
        ValueError: See `find_video_stream`.
    """

    def __init__(self, container: Any, *, threads: int = 1, live: bool = False) -> None:
        self.stream = find_video_stream(container)
        self.rule = ClockRule.of(container, self.stream)
        self.has_timestamps = False
        self._container, self._threads, self._live = container, threads, live
        self._count = DecodingCount()
        self._trail = PacketTrail()
        self._times: deque[int] = deque(maxlen=64)
        self._last: tuple[int | None, int] = (None, 0)  # timestamp and duration of the last picture

    def __iter__(self) -> Iterator[tuple[int, VideoFrame]]:
        context: Any = self.stream.codec_context
        context.thread_count = self._threads  # of slices: with threads for frames, they have other decoding times
        frames = iter_pictures(context, self._iter_noted_packets(), self._count)
        stamped = iter_stamps(frames, trusts_presentation=stores_presentation_times(self._container, self.stream))
        together = ((stamp, (stamp, frame)) for stamp, frame in stamped)
        for time, (stamp, frame) in iter_times(together, self.rule, live=self._live):
            self.has_timestamps |= stamp is not None or frame.pts is not None
            self._times.append(time)
            self._last = (stamp, frame.duration)
            self._trail.forget_before(stamp)
            yield time, frame

    def _iter_noted_packets(self) -> Iterator[Packet[VideoStream]]:
        packets = iter_packets(self._container, self.stream)
        if self._live:
            yield from packets
            return
        waiting: Packet[VideoStream] | None = None
        for packet in packets:
            if packet.pts is not None and not packet.is_discard:
                self._trail.add(packet.pts, packet.duration or 0)
            if waiting is not None:
                yield waiting
            waiting = packet
        if waiting is not None and waiting.is_corrupt:
            self._count.add_packet()
            self._count.add_broken()  # the file ends within it: what is missing would be whatever lies in memory
        elif waiting is not None:
            yield waiting

    def find_end(self) -> int:
        """When the last picture so far ends, in ticks: by its duration, or with the packets that follow it."""
        stamp, declared = self._last
        last = self._times[-1]
        rest = self._trail.find_rest(stamp, self.rule.longest)
        return last + max(find_last_duration(self._times, declared, self.rule), rest)

    def explain_loss(self, *, whole: bool) -> str | None:
        """Why the video is too damaged; None if it is not.

        Args:
            whole: Whether it was read to its end, so that all frames that it declares should be there.
        """
        packets = self._count.packets
        return self._count.explain_loss(count_announced_frames(self.stream, packets) if whole else packets)
