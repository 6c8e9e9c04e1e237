"""Lists that data sets come with: ``path label`` lines, the official splits of UCF101 and HMDB51, Kinetics' CSVs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from skd_bench.errors import UserError
from skd_bench.video.clip import WHOLE, Part
from skd_edge.data.sources.listing import (
    SPLITS,
    VIDEOS,
    Entry,
    Listing,
    Once,
    Split,
    grouped_by,
    hold_out,
    listing,
    named,
    read_lines,
)
from skd_edge.data.sources.tables import fragment, read_rows, seconds
from skd_edge.recipe.data import KineticsData, ListData, OfficialData


def path_label_lists(data: ListData) -> Listing:
    """Lines of ``path label``; a path may hold blanks, a label may not, unless a tab stands between them.

    Raises:
        UserError: A file is missing, a line is not of this form, a class is unknown.
    """
    names = [name for _, name in read_lines(data.root / data.classes)] if data.classes else []
    once, group = Once(), grouped_by(data.group)
    for split in SPLITS:
        file = data.root / getattr(data, split)
        for number, line in read_lines(file):
            at = f"{file}:{number}"
            path, _, label = line.rpartition("\t" if "\t" in line else " ")
            if not path:
                raise UserError(f"{at}: a line reads 'path label', not {line!r}")
            label = named(label, names, at, data.classes)
            once.add(Entry(data.root / path, path, label, split, group(path)), at)
    return listing(once.entries, "split files", once.note, classes=tuple(names) or None)


# ------------------------------------------------------------------------------------------ UCF101, HMDB51
def official(data: OfficialData, seed: int) -> Listing:
    """UCF101 or HMDB51 by an official split; validation clips are drawn by seed from its training part.

    Raises:
        UserError: A split file is missing or not of the official form, or disagrees with ``classInd.txt``.
    """
    folder, once = data.root / data.splits, Once()
    for at, path, label, split, group in (_ucf101 if data.kind == "ucf101" else _hmdb51)(folder, data.split):
        once.add(Entry(data.root / path, path, label, split, group), at)
    if not once.entries:
        raise UserError(f"{folder} holds no clips of split {data.split}; data.splits names the official split files")
    entries = once.entries
    if not entries[0].path.exists() and (data.root / entries[0].path.name).exists():  # all in one folder
        entries = [Entry(data.root / e.path.name, e.name, e.label, e.split, e.group) for e in entries]
    train = sum(e.split == "train" for e in entries)
    entries = hold_out(entries, "val", data.val * train, np.random.default_rng(seed))
    return listing(entries, f"official split {data.split}; validation: groups of its training part", once.note)


Row = tuple[str, str, str, Split, str]  # where it stands, path, class, split, group


def _ucf101(folder: Path, split: int) -> Iterator[Row]:
    """``trainlist01.txt`` (``Class/v_Class_g08_c01.avi 1``) and ``testlist01.txt``; a group is one source video."""
    index = folder / "classInd.txt"
    numbers = dict(line.split(maxsplit=1)[::-1] for _, line in read_lines(index)) if index.exists() else {}
    parts: tuple[tuple[str, Split], ...] = (("trainlist", "train"), ("testlist", "test"))
    for name, part in parts:
        file = folder / f"{name}{split:02d}.txt"
        for line_number, line in read_lines(file):
            path, _, number = line.partition(" ")
            label, at = path.partition("/")[0], f"{file}:{line_number}"
            if not path.endswith(tuple(VIDEOS)) or "/" not in path:
                raise UserError(f"{at}: a line reads 'Class/video.avi', with a number in training, not {line!r}")
            if number and numbers and numbers.get(label) != number.strip():
                raise UserError(f"{at}: {label} is number {number.strip()} here, {numbers.get(label)} in {index}")
            yield at, path, label, part, re.sub(r"_c\d+\.\w+$", "", path)


def _hmdb51(folder: Path, split: int) -> Iterator[Row]:
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
def kinetics(data: KineticsData) -> Listing:
    """Kinetics' CSVs; a listed video that is not there stays listed, and is counted as unreadable.

    Raises:
        UserError: A file is missing or lacks a column; a time is none.
    """
    if not data.root.is_dir():
        raise UserError(f"{data.root} is not a folder; data.root names the folder of the videos")
    there = {video.stem: video for video in sorted(data.root.rglob("*")) if video.suffix.lower() in VIDEOS}
    once = Once()
    for split in SPLITS:
        file = data.root / getattr(data, split)
        for number, (label, video, start, end) in read_rows(file, ("label", "youtube_id", "time_start", "time_end")):
            at = f"{file}:{number}"
            part = Part(seconds(start, at) or 0.0, seconds(end, at))
            cut = there.get(f"{video}_{int(part.start):06d}_{int(part.end or 0):06d}")
            path = cut or there.get(video) or data.root / f"{video}.mp4"
            name = path.relative_to(data.root).as_posix() + ("" if cut else fragment(part))
            once.add(Entry(path, name, label.strip(), split, video, (), WHOLE if cut else part), at)
    return listing(once.entries, "Kinetics' own splits", once.note, folders=False)
