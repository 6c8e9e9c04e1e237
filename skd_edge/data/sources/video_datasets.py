"""Formats of public data sets: official splits of UCF101 and HMDB51, CSVs of Kinetics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from skd_bench.errors import UserError
from skd_bench.listing.class_names import normalise_class_name
from skd_bench.listing.folder_walk import FoundClip, LeftOut, find_clips, is_video_name
from skd_bench.listing.paths import resolve_listed_path
from skd_bench.listing.tables import read_rows
from skd_bench.video.types import WHOLE_FILE, ClipSpan
from skd_edge.data.sources.listing import (
    SPLITS,
    ClipEntry,
    ClipListing,
    EntryCollector,
    Split,
    hold_out,
    make_listing,
    read_lines,
)
from skd_edge.data.sources.tables import format_time_fragment, parse_seconds
from skd_edge.recipe.data import KineticsData, OfficialData


# ------------------------------------------------------------------------------------------ UCF101, HMDB51
def read_official_split(data: OfficialData, seed: int) -> ClipListing:
    """List the clips of UCF101 or HMDB51 with an official split; validation clips are drawn from the training clips.

    Args:
        data: the recipe's section.
        seed: draws the validation clips, in whole groups (source videos).

    Raises:
        UserError: A split file does not exist, is malformed, or contradicts ``classInd.txt``.
    """
    folder, collector = data.root / data.splits, EntryCollector()
    read_split = _read_ucf101_split if data.kind == "ucf101" else _read_hmdb51_split
    for at, listed, label, split, group in read_split(folder, data.split):
        path, name = resolve_listed_path(data.root, listed)
        collector.add(ClipEntry(path, name, normalise_class_name(label), split, group), at)
    if not collector.entries:
        raise UserError(
            f"{folder} holds no clips of split {data.split}; data.splits names the folder of the official split files"
        )
    entries = collector.entries
    # Some copies of these data sets have no class folders: every video lies in one folder.
    if not entries[0].path.exists() and (data.root / entries[0].path.name).exists():
        entries = [ClipEntry(data.root / e.path.name, e.name, e.label, e.split, e.group) for e in entries]
    train = sum(e.split == "train" for e in entries)
    entries = hold_out(entries, "val", data.val * train, np.random.default_rng(seed))
    return make_listing(
        entries, f"official split {data.split}; validation: groups of its training clips", collector.duplicate_note
    )


OfficialRow = tuple[str, str, str, Split, str]  # place (file:line), path, class, split, group


def _read_ucf101_split(folder: Path, split: int) -> Iterator[OfficialRow]:
    """``trainlist01.txt`` (``Class/v_Class_g08_c01.avi 1``) and ``testlist01.txt``; a group is one source video."""
    index = folder / "classInd.txt"
    numbers = dict(line.split(maxsplit=1)[::-1] for _, line in read_lines(index)) if index.exists() else {}
    parts: tuple[tuple[str, Split], ...] = (("trainlist", "train"), ("testlist", "test"))
    for name, part in parts:
        file = folder / f"{name}{split:02d}.txt"
        for line_number, line in read_lines(file):
            path, _, number = line.replace("\\", "/").partition(" ")
            label, at = path.partition("/")[0], f"{file}:{line_number}"
            if not is_video_name(path) or "/" not in path:
                raise UserError(
                    f"{at}: the line must have the form 'Class/video.avi', with the class number in training lists; it "
                    f"is {line!r}"
                )
            if number and numbers and numbers.get(label) != number.strip():
                raise UserError(
                    f"{at}: class {label} has number {number.strip()} here and {numbers.get(label)} in {index}; use "
                    "split files of one release"
                )
            yield at, path, label, part, re.sub(r"_c\d+\.\w+$", "", path)


def _read_hmdb51_split(folder: Path, split: int) -> Iterator[OfficialRow]:
    """``<class>_test_split1.txt`` (``video.avi 1``; 1: train, 2: test, 0: neither); a group is one source video."""
    ending = f"_test_split{split}.txt"
    for file in sorted(folder.glob(f"*{ending}")):
        label = file.name.removesuffix(ending)
        for line_number, line in read_lines(file):
            name, _, use = line.rpartition(" ")
            at = f"{file}:{line_number}"
            if use not in ("0", "1", "2") or not name.strip():
                raise UserError(
                    f"{at}: the line must have the form 'video.avi 1' (1: train, 2: test, 0: neither); it is {line!r}"
                )
            if use != "0":
                name = name.strip()
                source = name.partition(f"_{label}_")[0]
                yield at, f"{label}/{name}", label, "train" if use == "1" else "test", source


# ------------------------------------------------------------------------------------------ Kinetics
def read_kinetics(data: KineticsData) -> ClipListing:
    """List the clips of Kinetics CSVs.

    A file ``<id>_<start>_<end>`` (six digits each) is a clip that was cut already; of a file ``<id>`` the clip is the
    span from start to end. A missing video stays listed and is later counted as unreadable.

    Raises:
        UserError: A file does not exist or lacks a column, or a cell is not a time.
    """
    if not data.root.is_dir():
        raise UserError(f"{data.root} is not a folder; data.root names the folder of the videos")
    left_out = LeftOut()
    clips_by_name = {clip.path.stem: clip for clip in find_clips(data.root, left_out)}
    collector = EntryCollector()
    for split in SPLITS:
        file = data.root / getattr(data, split)
        for number, (label, video, start, end) in read_rows(file, ("label", "youtube_id", "time_start", "time_end")):
            at = f"{file}:{number}"
            span = ClipSpan(parse_seconds(start, at) or 0.0, parse_seconds(end, at))
            cut = clips_by_name.get(f"{video}_{int(span.start):06d}_{int(span.end or 0):06d}")
            clip = cut or clips_by_name.get(video) or FoundClip(data.root / f"{video}.mp4", f"{video}.mp4")
            name = clip.name + ("" if cut else format_time_fragment(span))
            label = normalise_class_name(label)
            collector.add(ClipEntry(clip.path, name, label, split, video, (), WHOLE_FILE if cut else span), at)
    return make_listing(
        collector.entries,
        "Kinetics' own splits",
        collector.duplicate_note,
        left_out.to_text(),
        note_folder_mismatches=False,
    )
