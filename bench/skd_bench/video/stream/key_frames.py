"""Whether decoding can start at a packet, from the bytes of the packet itself.

What a container states is not enough: an AVI without its index and an MP4 without its sync table mark every packet as
a key frame. In doubt, the answer is no.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

# Codecs in which every packet is a picture of its own.
INDEPENDENT_PICTURES = frozenset(
    ("mjpeg", "prores", "dnxhd", "huffyuv", "ffvhuff", "rawvideo", "dvvideo", "jpeg2000", "v210", "utvideo")
)
KEY_PREFIX = 1 << 16  # parameter sets and the head of the first slice lie within so many bytes of a packet

# Codecs of which a packet may have no picture, or only repeat one; see `shows_a_picture`.
MAY_HIDE_PICTURES = frozenset(("vp8", "vp9", "mpeg4"))
_FFV1_KEY = 0x7F80  # half of the range coder's first range: the first bit of a picture says whether it is a key frame
_LARGEST_EMPTY_MPEG4 = 12  # bytes of an MPEG-4 packet that only repeats the picture before it

KeyFrameTest = Callable[[bytes], bool]


def find_key_frame_test(codec: str, extradata: bytes | None) -> KeyFrameTest | None:
    """The test for the packets of a stream.

    Args:
        codec: FFmpeg's name of the codec, such as "h264".
        extradata: The stream's header for the decoder.

    Returns:
        A function that gets the bytes of a packet (the first `KEY_PREFIX` are enough) and returns whether decoding can
        start at it; None if the pictures of this codec cannot be recognised.
    """
    if codec in INDEPENDENT_PICTURES:
        return bool
    head = extradata or b""
    if codec == "h264":
        length_size = (head[4] & 3) + 1 if len(head) > 6 and head[0] == 1 else 0
        return lambda data: _is_h264_key(data, length_size)
    if codec == "hevc":
        is_hvcc = len(head) > 22 and (head[0] or head[1] or head[2] > 1)
        length_size = (head[21] & 3) + 1 if is_hvcc else 0
        return lambda data: _is_hevc_key(data, length_size)
    return {
        "mpeg4": _is_mpeg4_key,
        "mpeg1video": _is_mpeg2_key,
        "mpeg2video": _is_mpeg2_key,
        "vp8": lambda data: len(data) > 3 and not data[0] & 1,
        "vp9": _is_vp9_key,
        "av1": _is_av1_key,
        "ffv1": lambda data: int.from_bytes(data[:2], "big") >= _FFV1_KEY,
    }.get(codec)


def shows_a_picture(codec: str, data: bytes | memoryview) -> bool | None:
    """Whether a packet has a picture that is shown; None if this cannot be seen.

    Args:
        codec: FFmpeg's name of the codec.
        data: The packet's bytes, at least one.
    """
    if codec == "vp8":
        return bool(data[0] & 0x10)
    if codec == "vp9":
        is_superframe = data[-1] >> 5 == 0b110  # a hidden frame and a shown one
        return True if is_superframe or _read_vp9_flags(data) not in ((0, 0, 0), (0, 1, 0)) else None
    if codec == "mpeg4" and len(data) <= _LARGEST_EMPTY_MPEG4:
        return None
    return True


# --------------------------------------------------------------------------------------------------- H.264 and HEVC
def _iter_units(data: bytes, length_size: int) -> Iterator[bytes]:
    """NAL units: each has its length in front of it, or (`length_size` 0) each follows a start code."""
    if length_size:
        at = 0
        while at + length_size < len(data):
            size = int.from_bytes(data[at : at + length_size], "big")
            at += length_size
            yield data[at : at + size]
            at += size
        return
    at = data.find(b"\0\0\1")
    while at >= 0:
        following = data.find(b"\0\0\1", at + 3)
        yield data[at + 3 : following if following >= 0 else len(data)]
        at = following


def _is_h264_key(data: bytes, length_size: int) -> bool:
    """An IDR picture, or one with an exact recovery point at itself (an open group); in a stream, its headers too."""
    kinds: set[int] = set()
    recovers = False
    for unit in _iter_units(data, length_size):
        kind = unit[0] & 31 if unit else 0
        kinds.add(kind)
        recovers |= kind == 6 and _has_recovery_point(unit[1:])
        if kind in (1, 2, 5):
            return (kind == 5 or (kind == 1 and recovers)) and (length_size > 0 or {7, 8} <= kinds)
    return False


def _has_recovery_point(message: bytes) -> bool:
    """Whether SEI messages say that all pictures from this one on are exact."""
    at = 0
    while at + 2 < len(message):
        numbers = []
        for _ in ("kind", "size"):
            number = 0
            while at < len(message) and message[at] == 255:
                number, at = number + 255, at + 1
            numbers.append(number + (message[at] if at < len(message) else 0))
            at += 1
        if numbers[0] == 6 and at < len(message):
            return message[at] & 0b1110_0000 == 0b1100_0000  # after 0 pictures, exactly, and no link is broken
        at += numbers[1]
    return False


def _is_hevc_key(data: bytes, length_size: int) -> bool:
    """A random access picture (IDR, BLA or CRA); in a stream, its headers too."""
    kinds: set[int] = set()
    for unit in _iter_units(data, length_size):
        kind = unit[0] >> 1 & 63 if unit else 63
        kinds.add(kind)
        if kind < 32:
            return 16 <= kind <= 21 and (length_size > 0 or {32, 33, 34} <= kinds)
    return False


# --------------------------------------------------------------------------------------------------- other codecs
def _is_mpeg4_key(data: bytes) -> bool:
    at = data.find(b"\0\0\1\xb6")
    is_intra = 0 <= at < len(data) - 4 and data[at + 4] >> 6 == 0
    return is_intra and data.find(b"\0\0\1\xb6", at + 4) < 0  # two pictures in a packet: packed B-frames


def _is_mpeg2_key(data: bytes) -> bool:
    at = data.find(b"\0\0\1\0")
    is_intra = 0 <= at < len(data) - 5 and data[at + 5] >> 3 & 7 == 1
    return is_intra and 0 <= data.find(b"\0\0\1\xb3") < at


def _is_vp9_key(data: bytes) -> bool:
    return len(data) > 3 and data[0] >> 6 == 0b10 and _read_vp9_flags(data) == (0, 0, 1)


def _read_vp9_flags(data: bytes | memoryview) -> tuple[int, int, int]:
    """Of the first frame: whether it shows one that is already there, is not a key frame, and is shown."""
    bits = int.from_bytes(bytes(data[:2]).ljust(2, b"\0"), "big")
    at = 12 - ((bits >> 12 & 3) == 3)  # below two bits of marker and two of profile; profile 3 has a bit more
    return bits >> (at - 1) & 1, bits >> (at - 2) & 1, bits >> (at - 3) & 1


def _is_av1_key(data: bytes) -> bool:
    """A shown key frame after a sequence header."""
    at, has_header = 0, False
    while at < len(data):
        kind, extended, sized = data[at] >> 3 & 15, data[at] >> 2 & 1, data[at] >> 1 & 1
        at += 1 + extended
        size, shift = (0, 0) if sized else (len(data) - at, 0)
        while sized and at < len(data) and shift < 56:
            size |= (data[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if not data[at - 1] & 128:
                break
        if kind == 1:
            has_header = at < len(data) and not data[at] >> 3 & 1  # not the header of a still picture
        if kind in (3, 6):
            return has_header and at < len(data) and data[at] >> 4 == 0b0001
        at += size
    return False
