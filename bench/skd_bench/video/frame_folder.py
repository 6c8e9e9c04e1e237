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


def list_frames(folder: Path) -> list[Path]:
    """The pictures of a folder in the order of their numbers: ``img_2.jpg`` comes before ``img_10.jpg``.

    Hidden files are left out. Where the folder holds several sequences (names that differ in more than their numbers),
    the frames are the one whose name is ``img``, ``image``, ``frame``, ``rgb`` or only a number.

    Raises:
        ValueError: The folder holds no pictures, or it cannot be known which of its sequences are the frames.
        OSError: The folder cannot be read.
    """
    sequences: dict[str, list[tuple[tuple[int, ...], str]]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES:
                numbers = tuple(int(digits) for digits in re.findall(r"[0-9]+", name))
                sequences.setdefault(re.sub(r"[0-9]+", "#", name), []).append((numbers, name))
    if not sequences:
        raise ValueError("it is a folder without pictures; give a video, or a folder of numbered JPEG or PNG pictures")
    if len(sequences) > 1:
        colour = [name for name in sequences if name.partition("#")[0].strip("_-. ").lower() in _COLOUR_NAMES]
        if len(colour) != 1:
            raise ValueError(
                f"the folder holds several sequences of pictures ({', '.join(sorted(sequences)[:4])}); keep one, or "
                "name its pictures img_00001.jpg, img_00002.jpg and so on"
            )
        sequences = {colour[0]: sequences[colour[0]]}
    (frames,) = sequences.values()
    return [folder / name for _, name in sorted(frames)]


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
