"""Clips that are folders of pictures: the frames of a video as JPEG or PNG files, numbered in the order of time."""

from __future__ import annotations

import os
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skd_bench.video.container import MAX_PIXELS
from skd_bench.video.frame_choice import Timetable, choose_positions
from skd_bench.video.resize import FrameResizer

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

    from skd_bench.video.types import ClipSpan, Pixels, Preprocessing, Sampling

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
_DECODER_BY_START = {b"\xff\xd8": "mjpeg", b"\x89P": "png"}  # by the file's first two bytes
# Names of colour frames where a folder also holds other sequences, such as optical flow (flow_x_00001.jpg).
_COLOUR_NAMES = frozenset({"img", "image", "frame", "rgb", ""})
_NUMBER = re.compile(r"[0-9]+")
_NumberedName = tuple[tuple[int, ...], str]  # the numbers in a file's name, and the name


def list_frames(folder: Path) -> list[Path]:
    """The pictures of a folder in the order of their numbers: ``img_2.jpg`` comes before ``img_10.jpg``.

    Hidden files are left out, and capital letters do not matter. Where the folder holds several sequences, the frames
    are the one whose name is ``img``, ``image``, ``frame``, ``rgb`` or only a number. Names of one sequence differ only
    in numbers. Several pictures for each value of a number before the last are several sequences (``cam1_0001.jpg``,
    ``cam2_0001.jpg``).

    Raises:
        ValueError: The folder holds no pictures, or it cannot be known which of its sequences are the frames.
        OSError: The folder cannot be read.
    """
    numbered: dict[str, list[_NumberedName]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES:
                numbers = tuple(int(digits) for digits in _NUMBER.findall(name))
                numbered.setdefault(_NUMBER.sub("#", name.lower()), []).append((numbers, name))
    sequences: dict[str, list[_NumberedName]] = {}
    for pattern, frames in numbered.items():
        sequences |= _split_by_earlier_numbers(pattern, frames)
    if not sequences:
        raise ValueError("it is a folder without pictures; give a video, or a folder of numbered JPEG or PNG pictures")
    if len(sequences) > 1:
        colour = [name for name in sequences if re.split("[#0-9]", name)[0].strip("_-. ") in _COLOUR_NAMES]
        if len(colour) != 1:
            raise ValueError(
                f"the folder holds several sequences of pictures ({', '.join(sorted(sequences)[:4])}); keep one, or "
                "name its pictures img_00001.jpg, img_00002.jpg and so on"
            )
        sequences = {colour[0]: sequences[colour[0]]}
    (frames,) = sequences.values()
    return [folder / name for _, name in sorted(frames)]


def _split_by_earlier_numbers(pattern: str, frames: list[_NumberedName]) -> dict[str, list[_NumberedName]]:
    """The sequences among pictures whose names differ only in numbers, by their pattern, with ``#`` for the number.

    The last number that differs is the frame's. There are several sequences if the numbers before it differ too, and
    each of their values has several pictures.
    """
    differing = [place for place, values in enumerate(zip(*(n for n, _ in frames), strict=True)) if len({*values}) > 1]
    last = differing[-1] if differing else 0
    parts: dict[tuple[int, ...], list[_NumberedName]] = {}
    for numbers, name in frames:
        parts.setdefault(numbers[:last], []).append((numbers, name))
    if len(parts) == 1 or min(map(len, parts.values())) == 1:
        return {pattern: frames}
    return {_mark_number(part[0][1], last): part for part in parts.values()}


def _mark_number(name: str, place: int) -> str:
    """The pattern of a sequence: ``cam2_0001.jpg`` at place 1 is ``cam2_#.jpg``."""
    number = list(_NUMBER.finditer(name))[place]
    return f"{name[: number.start()]}#{name[number.end() :]}".lower()


def decode_frame_folder(folder: Path, sampling: Sampling, preprocess: Preprocessing, span: ClipSpan) -> Pixels:
    """Decode the sampled pictures of a folder; arguments and result are those of `decode_clip`.

    Every picture is shown for ``1 / span.frame_rate`` seconds. A chosen picture that cannot be decoded is replaced by
    the one before it; at least half of the chosen pictures must decode.

    Raises:
        ValueError: See `list_frames`; or the span is empty, or too few pictures can be decoded.
        OSError: A picture cannot be read.
    """
    files = list_frames(folder)
    table = Timetable(np.arange(len(files), dtype=np.int64), len(files), 1 / span.frame_rate)
    resizer = FrameResizer(sampling.frames, preprocess, None)
    shown: VideoFrame | None = None
    lost, waiting = 0, 0  # waiting: frames before the first picture that can be decoded
    repeats = Counter(choose_positions(table, sampling, span))  # ascending
    for position, count in repeats.items():
        picture = decode_picture(files[position])
        lost += picture is None
        shown = picture or shown
        waiting += count
        while shown is not None and waiting:
            resizer.write_frame(shown)
            waiting -= 1
    if 2 * lost > len(repeats):
        raise ValueError(f"{lost} of the {len(repeats)} pictures that the clip needs cannot be decoded")
    return resizer.out


def decode_picture(file: Path) -> VideoFrame | None:
    """Decode one picture by its content, whatever its ending; None if it is damaged."""
    from av.codec import CodecContext
    from av.error import FFmpegError
    from av.packet import Packet

    data = file.read_bytes()
    decoder = _DECODER_BY_START.get(data[:2])
    if decoder is None:
        return None
    context: Any = CodecContext.create(decoder, "r")
    context.options = {"max_pixels": str(MAX_PIXELS)}
    context.thread_type = "NONE"
    with suppress(FFmpegError):
        frames = context.decode(Packet(data)) or context.decode(None)
        picture: VideoFrame | None = frames[0] if frames else None
        return None if picture is None or picture.is_corrupt else picture
    return None
