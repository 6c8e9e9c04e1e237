"""Small videos of every kind, and what cameras, cutters and broken disks do to them.

Each video shows the same moving picture at 25 frames per second. `make_video` encodes it; the functions in `SURGERY`
change the bytes of a finished file, as the name says. Used by decode_matrix.py and by tests.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.filter import Graph

RATE = 25
FRAMES = 30
GROUP = 6  # frames from one key frame to the next
HEIGHT, WIDTH = 48, 64


# ------------------------------------------------------------------------------------------------------ making
@dataclass(frozen=True)
class Codec:
    """An encoder of this FFmpeg.

    Attributes:
        encoder: its name.
        pix_fmt: its usual pixel format.
        options: its options.
        raw: ending and FFmpeg's name of its elementary stream, if it has one.
        containers: endings of the containers that hold it.
        formats: pixel formats for the pictures "ten bits", "alpha", "full range" and "odd size", where it has them.
        interlaced: options for interlaced pictures; None: it has none.
    """

    encoder: str
    pix_fmt: str
    containers: str
    options: dict[str, str] = field(default_factory=dict)
    raw: tuple[str, str] | None = None
    formats: dict[str, str] = field(default_factory=dict)
    interlaced: dict[str, str] | None = None


_X264 = {"preset": "veryfast", "crf": "8"}
_FIELDS = {"flags": "+ildct+ilme"}
CODECS = {
    "h264": Codec(
        "libx264",
        "yuv420p",
        "mp4 mov mkv avi ts mpg flv",
        _X264 | {"bf": "2", "x264-params": "scenecut=0"},
        (".h264", "h264"),
        {"ten bits": "yuv420p10le", "full range": "yuvj420p", "odd size": "yuv444p"},
        _FIELDS,
    ),
    "h264 open": Codec(
        "libx264",
        "yuv420p",
        "mp4 mkv ts",
        _X264 | {"bf": "2", "x264-params": "open-gop=1:scenecut=0"},
        (".h264", "h264"),
    ),
    "hevc": Codec(
        "libx265",
        "yuv420p",
        "mp4 mov mkv ts",
        {"preset": "ultrafast", "x265-params": "log-level=none:bframes=2:crf=8:pools=1:frame-threads=1"},
        (".hevc", "hevc"),
        {"ten bits": "yuv420p10le", "full range": "yuvj420p", "odd size": "yuv444p"},
    ),
    "mpeg2": Codec(
        "mpeg2video",
        "yuv420p",
        "mp4 mov mkv avi ts mpg",
        {"bf": "2", "qscale": "2"},
        (".m2v", "mpeg2video"),
        {},
        _FIELDS,
    ),
    "mpeg4": Codec(
        "mpeg4",
        "yuv420p",
        "mp4 mov mkv avi ts",
        {"bf": "2", "qscale": "2"},
        (".m4v", "m4v"),
        {"odd size": "yuv420p"},
        _FIELDS,
    ),
    "msmpeg4": Codec("msmpeg4", "yuv420p", "mkv avi", {"qscale": "2"}, None, {"odd size": "yuv420p"}),
    "vp8": Codec(
        "libvpx",
        "yuv420p",
        "webm mkv avi",
        {"deadline": "good", "cpu-used": "5"},
        (".ivf", "ivf"),
        {"odd size": "yuv420p"},
    ),
    "vp9": Codec(
        "libvpx-vp9",
        "yuv420p",
        "mp4 webm mkv",
        {"deadline": "good", "cpu-used": "5"},
        (".ivf", "ivf"),
        {"ten bits": "yuv420p10le", "odd size": "yuv420p"},
    ),
    "av1": Codec(
        "libsvtav1",
        "yuv420p",
        "mp4 webm mkv",
        {"preset": "12", "crf": "20"},
        (".obu", "obu"),
        {"ten bits": "yuv420p10le"},
    ),
    "mjpeg": Codec(
        "mjpeg",
        "yuvj420p",
        "mp4 mov mkv avi",
        {"qscale": "2"},
        (".mjpeg", "mjpeg"),
        {"full range": "yuvj420p", "odd size": "yuvj420p"},
    ),
    "prores": Codec(
        "prores_ks",
        "yuv422p10le",
        "mov mkv",
        {},
        None,
        {"ten bits": "yuv422p10le", "alpha": "yuva444p10le", "odd size": "yuv422p10le"},
        {"flags": "+ildct"},
    ),
    "ffv1": Codec(
        "ffv1",
        "yuv420p",
        "mkv avi mov",
        {},
        None,
        {"ten bits": "yuv420p10le", "alpha": "bgra", "odd size": "yuv444p"},
    ),
    "screen": Codec("flashsv2", "bgr24", "flv mkv", {}, None, {}),
    "animation": Codec("qtrle", "rgb24", "mov mkv", {}, None, {"alpha": "argb", "odd size": "rgb24"}),
    "gif": Codec("gif", "rgb8", "gif", {}, None, {"odd size": "rgb8"}),
}
_FORMATS = {"ts": "mpegts", "mpg": "vob", "mkv": "matroska"}


@dataclass(frozen=True)
class Look:
    """What is special about the pictures of a video.

    Attributes:
        name: for Codec.formats.
        pts: time of each frame, in frames.
        first: the time of the first one, in frames; added to all.
        top_first: whether the pictures are interlaced, and the upper field is the earlier one; None: progressive.
        aspect: width of a pixel over its height.
        hidden: every third frame is decoded but not shown (VP8); see `is_hidden`.
        second_stream: the file has a second video, after the first one.
    """

    name: str = "plain"
    pts: tuple[int, ...] = tuple(range(FRAMES))
    first: int = 0
    top_first: bool | None = None
    aspect: Fraction = Fraction(1)
    hidden: bool = False
    second_stream: bool = False


PLAIN = Look()


class NotMade(Exception):
    """This FFmpeg, or the container, cannot make such a video; the message says why."""


@cache
def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray[Any, Any]:
    """The moving picture: a block that goes around on a background whose four corners differ; uint8 (H, W, 3)."""
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack([40 + 2 * rows, 40 + 2 * columns, 120 + 0 * rows], 2)
    image[: height // 3, : width // 4] += 60
    angle = 2 * np.pi * number / FRAMES
    y, x = int(height / 2 + height / 4 * np.sin(angle)), int(width / 2 + width / 4 * np.cos(angle))
    image[y - 6 : y + 6, x - 6 : x + 6] = (20 + 7 * number) % 236
    return image.clip(0, 255).astype(np.uint8)


def make_video(path: Path, codec: Codec, look: Look = PLAIN) -> Path:
    """Encode the moving picture into a file; its ending names the container.

    Raises:
        NotMade: The encoder or the container cannot do it.
    """
    ending = path.suffix[1:]
    options = {"fflags": "+bitexact"} | ({"avoid_negative_ts": "disabled"} if look.first < 0 else {})
    if ending in ("mp4", "mov"):
        options["movflags"] = "faststart+negative_cts_offsets" if look.first < 0 else "faststart"
    container_format = codec.raw[1] if codec.raw and path.suffix == codec.raw[0] else _FORMATS.get(ending)
    try:
        with av.open(str(path), "w", format=container_format, options=options) as container:
            streams = [_add_stream(container, codec, look)]
            streams += [_add_stream(container, codec, PLAIN)] if look.second_stream else []
            for number, stream in enumerate(streams):
                _encode(container, stream, look, shift=7 * number)
    except (av.error.FFmpegError, ValueError, OverflowError) as error:
        raise NotMade(str(error)) from error
    return path


def _add_stream(container: Any, codec: Codec, look: Look) -> Any:
    options = dict(codec.options)
    if look.top_first is not None:
        if codec.interlaced is None:
            raise NotMade("the encoder has no interlaced pictures")
        options |= codec.interlaced
        if codec.encoder == "libx264":
            options["x264-params"] = f"scenecut=0:{'tff' if look.top_first else 'bff'}=1"
    if look.name in ("ten bits", "alpha", "full range", "odd size") and look.name not in codec.formats:
        raise NotMade("the encoder has no such pixels")
    stream = container.add_stream(codec.encoder, rate=RATE, options=options)
    odd = look.name == "odd size"
    stream.height, stream.width = HEIGHT + (3 if odd else 0), WIDTH + (3 if odd else 0)
    stream.pix_fmt = codec.formats.get(look.name, codec.pix_fmt)
    stream.gop_size = GROUP
    stream.time_base = stream.codec_context.time_base = Fraction(1, RATE)
    if look.aspect != 1:
        stream.sample_aspect_ratio = stream.codec_context.sample_aspect_ratio = look.aspect
    return stream


def _encode(container: Any, stream: Any, look: Look, shift: int) -> None:
    fields = None if look.top_first is None else _make_field_graph(stream, look.top_first)
    for number, pts in enumerate(look.pts):
        image = picture(number + shift, stream.height, stream.width)
        if look.top_first is not None:  # the other field is from half a frame later
            image = image.copy()
            image[1::2] = picture(number + shift + 1, stream.height, stream.width)[1::2]
        frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=stream.pix_fmt)
        frame.pts, frame.time_base = look.first + pts, Fraction(1, RATE)
        if fields is not None:
            fields.push(frame)
            frame = fields.pull()
        packets = stream.encode(frame)
        container.mux([hide(packet, stream) for packet in packets] if look.hidden and is_hidden(number) else packets)
    container.mux(stream.encode(None))


def is_hidden(number: int) -> bool:
    """Whether a frame is not shown, in a video with hidden frames."""
    return number % 3 == 2


def hide(packet: Any, stream: Any) -> Any:
    """The packet of VP8, with the bit cleared that says that its frame is shown."""
    data = bytearray(bytes(packet))
    data[0] &= ~0x10 & 0xFF
    hidden = av.Packet(bytes(data))
    hidden.pts, hidden.dts, hidden.duration = packet.pts, packet.dts, packet.duration
    hidden.time_base, hidden.is_keyframe, hidden.stream = packet.time_base, packet.is_keyframe, stream
    return hidden


def _make_field_graph(stream: Any, top_first: bool) -> Graph:
    graph = Graph()
    size = {"width": stream.width, "height": stream.height, "format": stream.pix_fmt, "time_base": Fraction(1, RATE)}
    source, marks = graph.add_buffer(**size), graph.add("setfield", "tff" if top_first else "bff")
    source.link_to(marks)
    marks.link_to(sink := graph.add("buffersink"))
    assert sink
    graph.configure()
    return graph


# ------------------------------------------------------------------------------------------------------ MP4 and MOV
def drop_sync_table(data: bytearray) -> None:
    """MP4, MOV: the table of key frames is missing, so every sample counts as one."""
    _replace(data, b"stss", b"free")


def turn(data: bytearray, matrix: Sequence[int]) -> None:
    """MP4, MOV: the display matrix has these values a, b, c, d."""
    a, b, c, d = (value << 16 for value in matrix)
    at = _find(data, b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)


def cut_by_edit_list(data: bytearray, frames: int = 4) -> None:
    """MP4, MOV: the edit list starts some frames later."""
    at = _find(data, b"elst") + 4
    if data[at] != 0 or int.from_bytes(data[at + 4 : at + 8], "big") != 1:
        raise NotMade("its edit list has another form")
    scale_at = _find(data, b"mdhd") + 16
    step = int.from_bytes(data[scale_at : scale_at + 4], "big") // RATE
    start = int.from_bytes(data[at + 12 : at + 16], "big")
    data[at + 12 : at + 16] = (start + frames * step).to_bytes(4, "big")


def shift_sample_time(data: bytearray, frames: int) -> None:
    """MP4, MOV: one sample's presentation time is some frames later than it should be."""
    scale_at = _find(data, b"mdhd") + 16
    step = int.from_bytes(data[scale_at : scale_at + 4], "big") // RATE
    at = _find(data, b"ctts") + 4
    count = int.from_bytes(data[at + 4 : at + 8], "big")
    entries = [at + 8 + 8 * i for i in range(count)]
    single = [entry for entry in entries[2:-2] if int.from_bytes(data[entry : entry + 4], "big") == 1]
    if not single:
        raise NotMade("no sample has a time of its own")
    entry = single[len(single) // 2]
    offset = struct.unpack(">i", data[entry + 4 : entry + 8])[0]
    data[entry + 4 : entry + 8] = struct.pack(">i", offset + frames * step)


# ------------------------------------------------------------------------------------------------------ AVI, Matroska
def drop_avi_index(data: bytearray) -> None:
    """AVI: the file ends before its index, as after a crash of the recorder."""
    del data[_find(data, b"idx1") :]


def drop_cues(data: bytearray) -> None:
    """Matroska: the index of key frames is overwritten by an element that is left out."""
    _replace(data, b"\x1c\x53\xbb\x6b", b"\x42\x86\x81\x01")


def shift_block_time(data: bytearray, milliseconds: int) -> None:
    """Matroska: the time of one block is that much later than it should be."""
    blocks = list(_iter_blocks(data, 0, len(data)))
    if len(blocks) < 12:
        raise NotMade("it has no blocks of its own")
    at = blocks[len(blocks) // 2 + 1] + 1
    time = struct.unpack(">h", data[at : at + 2])[0] + milliseconds
    data[at : at + 2] = struct.pack(">h", max(min(time, 32767), -32768))


def _iter_blocks(data: bytearray, begin: int, end: int) -> Iterator[int]:
    """Places of the contents of blocks."""
    at = begin
    while at < end - 2:
        id_size = 9 - data[at].bit_length()
        name = bytes(data[at : at + id_size])
        at += id_size
        length = 9 - data[at].bit_length()
        size = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
        unknown = size == (1 << 7 * length) - 1
        at += length
        past = end if unknown else min(at + size, end)
        if name in (b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75", b"\xa0"):  # segment, cluster, group
            yield from _iter_blocks(data, at, past)
        elif name in (b"\xa3", b"\xa1"):
            yield at
        at = past


# ------------------------------------------------------------------------------------------------------ broadcast
def iter_pes(data: bytearray) -> Iterator[int]:
    """Places of packets with a presentation time in MPEG-TS and MPEG-PS: of their start code."""
    if data[0] == 0x47:
        for at in range(0, len(data) - 187, 188):
            starts = data[at + 1] & 0x40
            begin = at + 4 + (1 + data[at + 4] if data[at + 3] & 0x20 else 0)
            if starts and data[begin : begin + 3] == b"\0\0\1" and data[begin + 3] >= 0xBD and data[begin + 7] & 0x80:
                yield begin
        return
    at = data.find(b"\0\0\1\xe0")
    while at >= 0:
        if data[at + 6] & 0xC0 == 0x80 and data[at + 7] & 0x80:
            yield at
        at = data.find(b"\0\0\1\xe0", at + 4)


def read_pts(data: bytearray, at: int) -> int:
    """The presentation time of the packet at a place, in 1/90000 s."""
    a, b, c, d, e = data[at + 9 : at + 14]
    return (a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1


def write_pts(data: bytearray, at: int, pts: int) -> None:
    """Change the presentation time of the packet at a place."""
    pts %= 1 << 33
    prefix = data[at + 9] & 0xF0
    fields = [prefix | (pts >> 30 & 7) << 1 | 1, pts >> 22 & 255, (pts >> 15 & 127) << 1 | 1, pts >> 7 & 255]
    data[at + 9 : at + 14] = bytes([*fields, (pts & 127) << 1 | 1])


def shift_packet_time(data: bytearray, frames: int) -> None:
    """MPEG-TS, MPEG-PS: one picture's presentation time is some frames later than it should be."""
    places = list(iter_pes(data))
    at = places[len(places) // 2]
    write_pts(data, at, read_pts(data, at) + frames * 90_000 // RATE)


def drop_packet_times(data: bytearray, every: int) -> None:
    """MPEG-TS, MPEG-PS: one packet in so many has no time."""
    for at in list(iter_pes(data))[every - 1 :: every]:
        data[at + 7] &= 0x3F
        data[at + 9 : at + 9 + data[at + 8]] = b"\xff" * data[at + 8]


# ------------------------------------------------------------------------------------------------------ any
def cut_head(data: bytearray) -> None:
    """The first part of the file is missing: it starts within a group of pictures."""
    size = len(data) * 3 // 20
    del data[: size - size % 188 if data[0] == 0x47 else size]


def cut_tail(data: bytearray) -> None:
    """The last part of the file is missing."""
    del data[len(data) * 4 // 5 :]


def _find(data: bytearray, name: bytes) -> int:
    at = data.find(name)
    if at < 0:
        raise NotMade(f"it has no {name!r}")
    return at


def _replace(data: bytearray, old: bytes, new: bytes) -> None:
    at = data.rfind(old)
    if at < 0:
        raise NotMade(f"it has no {old!r}")
    data[at : at + len(new)] = new


def operate(path: Path, surgery: Callable[..., None], *arguments: Any) -> Path:
    """Change the bytes of a file in place."""
    data = bytearray(path.read_bytes())
    surgery(data, *arguments)
    path.write_bytes(data)
    return path
