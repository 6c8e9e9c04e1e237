"""Decodes videos of every codec, container and oddity, and compares each clip with a decoder of its own.

    python -m bench.suites.robustness.decode_matrix [--tenth]

A cell is a codec in a container with an oddity (`ODDITIES`). The suite makes its file, so it knows when each picture is
shown. The pictures come from a bare PyAV loop from the first to the last packet, which shares no code with the
package. Each cell is equal, or refused for a true reason, or wrong: the frames of uniform and dense clips and of a span
of time, the fast way and the straight one, and the clock of `watch` and `predict --stream`. All valid cells are tried,
so every pair of codec, container and oddity that exists is covered. Writes bench/results/decode_matrix.json.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.filter import Graph

from bench.suites.robustness import odd_videos as odd
from bench.suites.robustness.odd_videos import CODECS, FRAMES, PLAIN, RATE, Look, NotMade
from skd_bench.files import write_json
from skd_bench.inference.frame_stream import iter_frames
from skd_bench.video import decoder
from skd_bench.video.clip import decode_clip
from skd_bench.video.sliding_window import SlidingWindows, WindowSpacing
from skd_bench.video.straight_decode import decode_straight
from skd_bench.video.types import ClipError, ClipSpan, Preprocessing, Sampling

RESULTS = Path(__file__).resolve().parents[2] / "results/decode_matrix.json"
HEIGHT, WIDTH = 32, 40
STRETCH = Preprocessing(HEIGHT, WIDTH, "stretch", (0.5,) * 3, (0.25,) * 3)
CROP = Preprocessing(HEIGHT, WIDTH, "crop", (0.5,) * 3, (0.25,) * 3)
AREA = 0x20 | 0x2000 | 0x40000 | 0x80000  # swscale's flags: area, full chroma, accurate rounding, bitexact
TOLERANCE_S = 0.006  # the rounding of timestamps, and an eighth of a frame where all are equally long
Images = npt.NDArray[np.uint8]

os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder prints its settings


# ------------------------------------------------------------------------------------------------------ the cells
@dataclass(frozen=True)
class Oddity:
    """Something unusual about a file.

    Attributes:
        containers: endings that can have it; "raw" stands for elementary streams; empty: all.
        codecs: codecs that can have it; empty: all.
        look: what is special about its pictures.
        surgery: changes the bytes of the finished file.
        joined: seconds by which the clock of a second recording is ahead, which follows the first; None: no second one.
        times: when pictures are shown: "regular", as "encoded", or as the "stream" states and the suite cannot know.
        shown: how the stored picture is shown; a function of the array.
        uncertain_end: the last picture may be shown for one frame more, because its packet is cut.
        refused: what a refusal may say; empty: it may not be refused.
    """

    containers: str = ""
    codecs: str = ""
    look: Look = PLAIN
    surgery: Callable[[bytearray], None] | None = None
    joined: float | None = None
    times: str = "regular"
    shown: Callable[[Images], Images] = field(default=lambda image: image)
    uncertain_end: bool = False
    refused: str = ""


_VARIABLE = tuple(sorted({*range(0, 8), *range(12, 40, 3), *range(50, 62)}))
_LOST = r"cut off|damaged|no frame can be decoded|FFmpeg|no video"
_SWAP = partial(np.swapaxes, axis1=0, axis2=1)
ODDITIES = {
    "plain": Oddity(),
    "no index": Oddity("avi", surgery=odd.drop_avi_index),
    "no cues": Oddity("mkv webm", surgery=odd.drop_cues),
    "no sync table": Oddity("mp4 mov", surgery=odd.drop_sync_table),
    "cut head": Oddity("ts mpg raw", surgery=odd.cut_head, times="stream", refused=_LOST),
    "cut tail": Oddity("", surgery=odd.cut_tail, times="stream", uncertain_end=True, refused=_LOST),
    "clock jumps forward": Oddity("ts mpg", joined=60.0),
    "clock jumps far": Oddity("ts mpg", joined=40_000.0),
    "clock starts anew": Oddity("ts mpg raw", joined=0.0),
    "no times": Oddity("ts mpg", surgery=partial(odd.drop_packet_times, every=1)),
    "missing times": Oddity("ts mpg", surgery=partial(odd.drop_packet_times, every=3), times="stream"),
    "one repeated time": Oddity("mp4 mov", surgery=partial(odd.shift_sample_time, frames=-1)),
    # FFmpeg leaves the picture out: it lies after the end of the edit list.
    "one odd time": Oddity("mp4 mov", surgery=partial(odd.shift_sample_time, frames=60), times="stream"),
    "one repeated time ": Oddity("mkv webm", surgery=partial(odd.shift_block_time, milliseconds=-40)),
    "one odd time ": Oddity("mkv webm", surgery=partial(odd.shift_block_time, milliseconds=20_000)),
    "one odd time  ": Oddity("ts", surgery=partial(odd.shift_packet_time, frames=200)),
    "one early time": Oddity("ts", surgery=partial(odd.shift_packet_time, frames=-200)),
    "times start late": Oddity("mp4 mov mkv webm ts mpg", look=Look(first=1000)),
    "times start negative": Oddity("mp4 mov", look=Look(first=-10), times="stream"),
    "clock wraps": Oddity("ts", look=Look(first=((1 << 33) - 90_000) * RATE // 90_000)),
    "edit list": Oddity("mp4 mov", surgery=odd.cut_by_edit_list, times="stream"),
    "variable rate": Oddity("mp4 mov mkv webm avi ts flv gif", look=Look(pts=_VARIABLE), times="encoded"),
    "hidden frames": Oddity("webm mkv avi", "vp8", look=Look(hidden=True), times="encoded"),
    "one frame": Oddity(look=Look(pts=(0,)), refused="pictures and sound are not videos"),  # a raw stream of JPEG
    "hflip": Oddity("mp4 mov", surgery=partial(odd.turn, matrix=(-1, 0, 0, 1)), shown=lambda z: z[:, ::-1]),
    "vflip": Oddity("mp4 mov", surgery=partial(odd.turn, matrix=(1, 0, 0, -1)), shown=lambda z: z[::-1]),
    "half a turn": Oddity("mp4 mov", surgery=partial(odd.turn, matrix=(-1, 0, 0, -1)), shown=lambda z: z[::-1, ::-1]),
    "turned right": Oddity("mp4 mov", surgery=partial(odd.turn, matrix=(0, 1, -1, 0)), shown=partial(np.rot90, k=-1)),
    "turned left": Oddity("mp4 mov", surgery=partial(odd.turn, matrix=(0, -1, 1, 0)), shown=partial(np.rot90, k=1)),
    "transposed": Oddity("mp4 mov", surgery=partial(odd.turn, matrix=(0, 1, 1, 0)), shown=_SWAP),
    "antitransposed": Oddity(
        "mp4 mov", surgery=partial(odd.turn, matrix=(0, -1, -1, 0)), shown=lambda z: _SWAP(z[::-1, ::-1])
    ),
    "interlaced, top first": Oddity("", "h264 mpeg2 mpeg4 prores", look=Look(top_first=True)),
    "interlaced, bottom first": Oddity("", "h264 mpeg2 mpeg4 prores", look=Look(top_first=False)),
    "wide pixels": Oddity("mp4 mov mkv webm ts mpg", look=Look(aspect=Fraction(4, 3))),
    "odd size": Oddity(look=Look("odd size")),
    "ten bits": Oddity(look=Look("ten bits")),
    "alpha": Oddity(look=Look("alpha")),
    "full range": Oddity(look=Look("full range")),
    "two streams": Oddity("mp4 mov mkv webm avi ts mpg", look=Look(second_stream=True)),
}


@dataclass(frozen=True)
class Cell:
    """One file of the suite."""

    codec: str
    container: str
    oddity: str

    @property
    def name(self) -> str:
        """Such as ``h264, mp4, plain``."""
        return f"{self.codec}, {self.container}, {self.oddity.strip()}"


def list_cells() -> list[Cell]:
    """All cells, in a stable order; some of them cannot be made (`NotMade`)."""
    cells = []
    for codec_name, codec in CODECS.items():
        endings = [*codec.containers.split(), *([codec.raw[0][1:]] if codec.raw else [])]
        for ending in endings:
            kind = "raw" if codec.raw and f".{ending}" == codec.raw[0] else ending
            for name, oddity in ODDITIES.items():
                fits = not oddity.containers or kind in oddity.containers.split()
                if fits and (not oddity.codecs or codec_name in oddity.codecs.split()):
                    cells.append(Cell(codec_name, ending, name))
    return cells


def make_file(cell: Cell, folder: Path) -> Path:
    """Make the file of a cell.

    Raises:
        NotMade: This FFmpeg cannot make it.
    """
    codec, oddity = CODECS[cell.codec], ODDITIES[cell.oddity]
    if cell.container == "avi" and oddity.times == "encoded" and codec.encoder == "libx264":
        raise NotMade("AVI does not store when reordered pictures are shown")
    path = odd.make_video(folder / f"v.{cell.container}", codec, oddity.look)
    if oddity.joined is not None:
        second = Look(first=round(oddity.joined * RATE) + (FRAMES if oddity.joined else 0))
        with path.open("ab") as file:
            file.write(odd.make_video(folder / f"w.{cell.container}", codec, second).read_bytes())
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        if cell.container == "ts" and container.format.name != "mpegts":
            raise NotMade("FFmpeg takes so short a file for another format")
        if oddity.look.aspect not in (1, video.sample_aspect_ratio):
            raise NotMade("neither encoder nor container stores the aspect of pixels")
    if oddity.surgery is not None:
        try:
            odd.operate(path, oddity.surgery)
        except (IndexError, ValueError) as error:
            raise NotMade(f"its bytes have another form: {error}") from error
    return path


# ------------------------------------------------------------------------------------------------------ the reference
@dataclass(frozen=True)
class Reference:
    """What a file shows, found without the package.

    Attributes:
        images: (N, H, W, 3), upright and resized, in FFmpeg's order.
        times: when each is shown, in seconds since the first.
        ends: when the last one may end.
        timed: whether the file has timestamps.
        interlaced: whether its pictures are interlaced.
        tick: unit of its timestamps, in seconds.
    """

    images: Images
    times: list[float]
    ends: list[float]
    timed: bool
    interlaced: bool
    tick: float = 0.0


def decode_bare(path: Path) -> list[Any]:
    """Decode the first video of a file, from its first to its last packet."""
    frames: list[Any] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.thread_count = "NONE", 1
        independent = stream.codec_context.name in ("mjpeg", "prores")
        if independent:  # nothing conceals an error there: the rest would be whatever lies in memory
            stream.codec_context.options = {"err_detect": "explode"}
        packets: list[Any] = []
        with suppress(av.error.FFmpegError):
            packets.extend(container.demux(stream))
        packets = [packet for packet in packets if packet.size]  # an empty one would end the decoder's work
        if packets and packets[-1].is_corrupt:
            del packets[-1]  # the file ends within it: what is missing would be whatever lies in memory
        for packet in packets:
            if packet.is_corrupt and independent:
                continue
            with suppress(av.error.FFmpegError):
                frames += packet.decode()
        with suppress(av.error.FFmpegError):
            frames += stream.codec_context.decode(None)
    return frames


def make_reference(path: Path, oddity: Oddity) -> Reference:
    """Decode a file and lay out its pictures as the oddity says."""
    frames = decode_bare(path)
    if not frames:
        return Reference(np.empty((0, HEIGHT, WIDTH, 3), np.uint8), [], [], False, False)
    interlaced = any(frame.interlaced_frame for frame in frames)
    upright = oddity.shown(np.empty((HEIGHT, WIDTH, 3), np.uint8)).shape[0] == HEIGHT
    height, width = (HEIGHT, WIDTH) if upright else (WIDTH, HEIGHT)
    images = np.stack([oddity.shown(resize(frame, height, width)) for frame in frames])
    numbers: Sequence[float] = range(len(frames))
    if oddity.times == "encoded":
        hides = oddity.look.hidden
        numbers = [pts for number, pts in enumerate(oddity.look.pts) if not (hides and odd.is_hidden(number))]
    with av.open(str(path)) as container:
        tick = container.streams.video[0].time_base or 0
    if oddity.times == "stream" and all(frame.pts is not None for frame in frames):
        stated = [round((frame.pts - frames[0].pts) * float(tick) * RATE, 3) for frame in frames]
        numbers = stated if stated == sorted(set(stated)) else numbers
    last = oddity.look.pts[-1] if oddity.times == "encoded" else numbers[-1]
    ends = [(last + 1 + more) / RATE for more in range(4 if oddity.uncertain_end else 1)]
    timed = any(frame.pts is not None or frame.dts is not None for frame in frames)
    return Reference(images, [number / RATE for number in numbers], ends, timed, interlaced, float(tick))


def resize(frame: Any, height: int, width: int) -> Images:
    """One picture as RGB: by swscale, or (interlaced) by FFmpeg's scale filter."""
    if not frame.interlaced_frame:
        image: Images = frame.reformat(width, height, "rgb24", interpolation=AREA, threads=1).to_ndarray()
        return image
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000))
    flags = "area+full_chroma_int+accurate_rnd+bitexact"
    steps = [source, graph.add("scale", f"{width}:{height}:flags={flags}:interl=0"), graph.add("format", "rgb24")]
    steps.append(graph.add("buffersink"))
    for before, after in pairwise(steps):
        before.link_to(after)
    graph.configure()
    graph.push(frame)
    scaled: Images = graph.pull().to_ndarray()
    return scaled


def find_shown(reference: Reference, second: float, rounding: float) -> set[int]:
    """Positions of the pictures that may be shown at a time: two, if the time is between them, or rounded so much."""
    found = set()
    near = max(TOLERANCE_S, reference.ends[0] / (8 * len(reference.times)) + 0.001) + rounding
    for moment in (second - near, second, second + near):
        before = [i for i, start in enumerate(reference.times) if start <= moment]
        found.add(before[-1] if before else 0)
    return found


# ------------------------------------------------------------------------------------------------------ comparing
def compare_cell(cell: Cell, folder: Path) -> str:
    """Make and decode a cell.

    Returns:
        "equal", "refused: REASON", or "wrong: WHAT".

    Raises:
        NotMade: This FFmpeg cannot make the file.
    """
    oddity = ODDITIES[cell.oddity]
    path = make_file(cell, folder)
    try:
        reference = make_reference(path, oddity)
    except av.error.FFmpegError as error:
        reference = Reference(np.empty((0, HEIGHT, WIDTH, 3), np.uint8), [], [], False, False)
        if not oddity.refused:
            raise NotMade(f"FFmpeg does not open it: {error}") from error
    if oddity.look.top_first is not None and not reference.interlaced:
        raise NotMade("its pictures are not marked as interlaced")
    try:
        wrong = [text for text in iter_differences(path, reference, oddity) if text]
    except ClipError as error:
        true = oddity.refused and re.search(oddity.refused, error.reason)
        return f"refused: {error.reason}" if true else f"wrong: refused, {error.reason}"
    return f"wrong: {'; '.join(wrong)}" if wrong else "equal"


def iter_differences(path: Path, reference: Reference, oddity: Oddity) -> Iterator[str]:
    """What differs from the reference, in words; nothing if all is equal."""
    for sampling in (Sampling(7), Sampling(16)):
        clip = decode_clip(path, sampling, STRETCH)
        if not len(reference.images):
            yield "a clip, though nothing can be decoded"
            return
        parts = [(2 * k + 1) / (2 * sampling.frames) for k in range(sampling.frames)]
        yield explain_clip(clip, reference, [[part * end for part in parts] for end in reference.ends], str(sampling))
        if not np.array_equal(clip, decode_straight(path, sampling, STRETCH)):
            yield f"{sampling}: the fast way differs from the straight one"
    if oddity.times == "regular":
        count = len(reference.images)
        first = (count - 9) // 2
        clip = decode_clip(path, Sampling(5, "dense", 2), STRETCH)
        wanted = [min(max(first + 2 * k, 0), count - 1) for k in range(5)]
        if not oddity.uncertain_end and count >= 9:
            yield explain_clip(clip, reference, [[(w + 0.5) / RATE for w in wanted]], "dense")
        if not np.array_equal(clip, decode_straight(path, Sampling(5, "dense", 2), STRETCH)):
            yield "dense: the fast way differs from the straight one"
    yield explain_span(path, reference)
    yield explain_clock(path, reference)
    if oddity.look.aspect != 1:
        yield explain_aspect(path, oddity.look.aspect)


def explain_clip(
    clip: Images, reference: Reference, moments: Sequence[Sequence[float]], what: str, *, rounding: float = 0.0
) -> str:
    """Compare the frames of a clip with those shown at one of several sequences of times."""
    explanations = []
    for sequence in moments:
        missed = []
        for number, second in enumerate(sequence):
            shown = find_shown(reference, second, rounding)
            if not any(is_same(clip[number], reference.images[position], reference.interlaced) for position in shown):
                gap = np.abs(reference.images.astype(int) - clip[number]).mean((1, 2, 3))
                missed.append(f"{sorted(shown)} came {int(gap.argmin())} ({gap.min():.1f})")
        if not missed:
            return ""
        explanations.append(f"{what}: frames {', '.join(missed)}")
    return explanations[0]


def is_same(one: Images, other: Images, interlaced: bool) -> bool:
    """Whether two pictures are equal; two ways through FFmpeg round interlaced ones differently."""
    if not interlaced:
        return bool(np.array_equal(one, other))
    return float(np.abs(one.astype(int) - other).mean()) < 1.0


def explain_span(path: Path, reference: Reference) -> str:
    """Compare the frames of a span of time in the middle."""
    end = reference.ends[0]
    span = ClipSpan(end / 4, end * 3 / 4)
    try:
        clip = decode_clip(path, Sampling(4), STRETCH, span)
    except ClipError as error:
        return "" if not reference.timed and "no timestamps" in error.reason else f"span: {error.reason}"
    if not np.array_equal(clip, decode_straight(path, Sampling(4), STRETCH, span)):
        return "span: the fast way differs from the straight one"
    moments = [span.start + (2 * k + 1) / 8 * (end / 2) for k in range(4)]
    # The ends of a span are rounded to ticks; in an AVI, a tick is a frame.
    return explain_clip(clip, reference, [moments], "span", rounding=reference.tick / 2)


def explain_clock(path: Path, reference: Reference) -> str:
    """Compare the clocks of `predict --stream` and `watch`."""
    seconds = [second for second, _ in iter_frames(path, STRETCH, 1)]
    if len(seconds) != len(reference.times):
        return f"stream: {len(seconds)} of {len(reference.times)} frames"
    late = max(abs(a - b) for a, b in zip(seconds, reference.times, strict=True))
    if late > TOLERANCE_S:
        return f"stream: times differ by {late:.3f} s"
    windows = SlidingWindows(path, Sampling(2), STRETCH, WindowSpacing(0.4, 0.2))
    for start, _, clip in windows:
        wrong = explain_clip(clip, reference, [[start + 0.1, start + 0.3]], f"watch at {start:.1f} s")
        if wrong and start + 0.3 < reference.ends[0]:
            return wrong
    if not any(abs(windows.seconds - end) <= TOLERANCE_S for end in reference.ends):
        return f"watch: {windows.seconds:.3f} s, not {reference.ends[0]:.3f} s"
    return ""


def explain_aspect(path: Path, aspect: Fraction) -> str:
    """Compare a frame whose pixels are not square with FFmpeg's picture, stretched and cut by hand."""
    frame = decode_bare(path)[0]
    width = round(HEIGHT * Fraction(frame.width, frame.height) * aspect)
    whole = resize(frame, HEIGHT, width)
    begin = (width - WIDTH) // 2
    got = decode_clip(path, Sampling(FRAMES), CROP)[0]
    return "" if np.array_equal(got, whole[:, begin : begin + WIDTH]) else "pixels are not stretched"


# ------------------------------------------------------------------------------------------------------ running
def run(cells: Sequence[Cell], progress: Callable[[str], None] = print) -> dict[str, Any]:
    """Compare cells.

    Returns:
        Counts of equal, refused and wrong cells, those that cannot be made by reason, and how many clips were decoded
        the fast way.
    """
    verdicts: dict[str, str] = {}
    not_made: dict[str, str] = {}
    straight: list[Path] = []
    fast_way = decoder.decode_straight

    def counting(path: Path, *arguments: Any, **options: Any) -> Images:
        straight.append(path)
        return fast_way(path, *arguments, **options)

    began = shown = time.monotonic()
    decoder.decode_straight = counting
    fast = 0
    try:
        for done, cell in enumerate(cells, 1):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    straight.clear()
                    verdicts[cell.name] = compare_cell(cell, Path(folder))
                    fast += not straight
                except NotMade as reason:
                    not_made[cell.name] = str(reason)[:100].replace(folder, "")
            if time.monotonic() - shown > 5:
                shown = time.monotonic()
                progress(f"{done} of {len(cells)} cells")
    finally:
        decoder.decode_straight = fast_way
    kinds = Counter(verdict.partition(":")[0] for verdict in verdicts.values())
    return {
        "cells": len(verdicts),
        "equal": kinds["equal"],
        "refused": {name: verdict[9:] for name, verdict in verdicts.items() if verdict.startswith("refused")},
        "wrong": {name: verdict[7:] for name, verdict in verdicts.items() if verdict.startswith("wrong")},
        "only_fast_way": fast,
        "codecs": sorted({name.split(", ")[0] for name in verdicts}),
        "containers": sorted({name.split(", ")[1] for name in verdicts}),
        "oddities": sorted({name.split(", ", 2)[2] for name in verdicts}),
        "not_made": not_made,
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    """Compare all cells, or a tenth of them, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tenth", action="store_true", help="every tenth cell, and write nothing")
    tenth = parser.parse_args().tenth
    found = run(list_cells()[:: 10 if tenth else 1])
    if not tenth:
        versions = {"pyav": av.__version__, "ffmpeg": av.ffmpeg_version_info}
        write_json(RESULTS, {**versions, **found})
    print({name: value for name, value in found.items() if name not in ("refused", "not_made", "wrong")})
    print(*(f"wrong: {name}: {text}" for name, text in found["wrong"].items()), sep="\n")
    raise SystemExit(1 if found["wrong"] else 0)


if __name__ == "__main__":
    main()
