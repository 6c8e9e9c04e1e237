"""Lists that data sets come with: ``path label`` lines, the official splits of UCF101 and HMDB51, Kinetics' CSVs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from skd_bench.errors import UserError
from skd_bench.video.types import WHOLE_FILE, ClipSpan
from skd_edge.data.sources.listing import (
    SPLITS,
    VIDEO_SUFFIXES,
    ClipEntry,
    ClipListing,
    EntryCollector,
    Split,
    hold_out,
    make_group_finder,
    make_listing,
    read_lines,
    resolve_class_name,
)
from skd_edge.data.sources.tables import format_time_fragment, parse_seconds, read_rows
from skd_edge.recipe.data import KineticsData, ListData, OfficialData


def read_path_label_lists(data: ListData) -> ClipListing:
    """Lines of ``path label``; a path may hold blanks, a label may not, unless a tab stands between them.

    Raises:
        UserError: A file is missing, a line is not of this form, a class is unknown.
    """
    names = [name for _, name in read_lines(data.root / data.classes)] if data.classes else []
    collector, group = EntryCollector(), make_group_finder(data.group)
    for split in SPLITS:
        file = data.root / getattr(data, split)
        for number, line in read_lines(file):
            at = f"{file}:{number}"
            path, _, label = line.rpartition("\t" if "\t" in line else " ")
            if not path:
                raise UserError(f"{at}: a line reads 'path label', not {line!r}")
            label = resolve_class_name(label, names, at, data.classes)
            collector.add(ClipEntry(data.root / path, path, label, split, group(path)), at)
    return make_listing(collector.entries, "split files", collector.duplicate_note, classes=tuple(names) or None)


# ------------------------------------------------------------------------------------------ UCF101, HMDB51
def read_official_split(data: OfficialData, seed: int) -> ClipListing:
    """UCF101 or HMDB51 by an official split; validation clips are drawn by seed from its training part.

    Raises:
        UserError: A split file is missing or not of the official form, or disagrees with ``classInd.txt``.
    """
    folder, collector = data.root / data.splits, EntryCollector()
    for at, path, label, split, group in (_read_ucf101_split if data.kind == "ucf101" else _read_hmdb51_split)(
        folder, data.split
    ):
        collector.add(ClipEntry(data.root / path, path, label, split, group), at)
    if not collector.entries:
        raise UserError(f"{folder} holds no clips of split {data.split}; data.splits names the official split files")
    entries = collector.entries
    if not entries[0].path.exists() and (data.root / entries[0].path.name).exists():  # all in one folder
        entries = [ClipEntry(data.root / e.path.name, e.name, e.label, e.split, e.group) for e in entries]
    train = sum(e.split == "train" for e in entries)
    entries = hold_out(entries, "val", data.val * train, np.random.default_rng(seed))
    return make_listing(
        entries, f"official split {data.split}; validation: groups of its training part", collector.duplicate_note
    )


OfficialRow = tuple[str, str, str, Split, str]  # where it stands, path, class, split, group


def _read_ucf101_split(folder: Path, split: int) -> Iterator[OfficialRow]:
    """``trainlist01.txt`` (``Class/v_Class_g08_c01.avi 1``) and ``testlist01.txt``; a group is one source video."""
    index = folder / "classInd.txt"
    numbers = dict(line.split(maxsplit=1)[::-1] for _, line in read_lines(index)) if index.exists() else {}
    parts: tuple[tuple[str, Split], ...] = (("trainlist", "train"), ("testlist", "test"))
    for name, part in parts:
        file = folder / f"{name}{split:02d}.txt"
        for line_number, line in read_lines(file):
            path, _, number = line.partition(" ")
            label, at = path.partition("/")[0], f"{file}:{line_number}"
            if not path.endswith(tuple(VIDEO_SUFFIXES)) or "/" not in path:
                raise UserError(f"{at}: a line reads 'Class/video.avi', with a number in training, not {line!r}")
            if number and numbers and numbers.get(label) != number.strip():
                raise UserError(f"{at}: {label} is number {number.strip()} here, {numbers.get(label)} in {index}")
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
                raise UserError(f"{at}: a line reads 'video.avi 1' (1: train, 2: test, 0: neither), not {line!r}")
            if use != "0":
                name = name.strip()
                source = name.partition(f"_{label}_")[0]
                yield at, f"{label}/{name}", label, "train" if use == "1" else "test", source


# ------------------------------------------------------------------------------------------ Kinetics
def read_kinetics(data: KineticsData) -> ClipListing:
    """Kinetics' CSVs; a listed video that is not there stays listed, and is counted as unreadable.

    Raises:
        UserError: A file is missing or lacks a column; a time is none.
    """
    if not data.root.is_dir():
        raise UserError(f"{data.root} is not a folder; data.root names the folder of the videos")
    videos_by_name = {
        video.stem: video for video in sorted(data.root.rglob("*")) if video.suffix.lower() in VIDEO_SUFFIXES
    }
    collector = EntryCollector()
    for split in SPLITS:
        file = data.root / getattr(data, split)
        for number, (label, video, start, end) in read_rows(file, ("label", "youtube_id", "time_start", "time_end")):
            at = f"{file}:{number}"
            span = ClipSpan(parse_seconds(start, at) or 0.0, parse_seconds(end, at))
            cut = videos_by_name.get(f"{video}_{int(span.start):06d}_{int(span.end or 0):06d}")
            path = cut or videos_by_name.get(video) or data.root / f"{video}.mp4"
            name = path.relative_to(data.root).as_posix() + ("" if cut else format_time_fragment(span))
            collector.add(ClipEntry(path, name, label.strip(), split, video, (), WHOLE_FILE if cut else span), at)
    return make_listing(
        collector.entries, "Kinetics' own splits", collector.duplicate_note, note_folder_mismatches=False
    )
