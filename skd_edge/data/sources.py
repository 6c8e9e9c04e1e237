"""Where clips come from: each kind of source becomes one list of entries with a weak label and a split."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any, Literal

import numpy as np

from skd_bench.clips import WHOLE, Part
from skd_bench.errors import UserError
from skd_edge.data.generate import VERSION, classes_of, generate
from skd_edge.recipe import FolderData, GeneratedData, ListData, TableData
from skd_edge.recipe import Part as Section

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
VIDEOS = frozenset((".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp"))


@dataclass(frozen=True, slots=True)
class Entry:
    """One listed clip.

    Attributes:
        path: the file.
        name: its path relative to the data's root, which identifies it everywhere.
        label: class name; empty where the clip is unlabelled (training only).
        split: the set that it belongs to.
        group: clips of one group stay together (a source video, an actor).
        votes: one class name for each annotator, empty for an abstention; () where there are no votes.
        part: which part of the file the clip is.
    """

    path: Path
    name: str
    label: str
    split: Split
    group: str
    votes: tuple[str, ...] = ()
    part: Part = WHOLE


@dataclass(frozen=True)
class Listing:
    """Every clip of a recipe, classes sorted by name (or in the order that the user's class file gives).

    ``annotators`` names whose votes the entries of the training split carry, in this order.
    """

    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    note: str
    annotators: tuple[str, ...] = ()


@singledispatch
def list_clips(data: Section, *, seed: int, cache: Path, progress: Callable[[int, int], None] | None = None) -> Listing:
    """List the clips of a recipe's data section.

    Args:
        data: The section.
        seed: Draws splits and the generated set.
        cache: Where the generated set is rendered.
        progress: Called with (done, total) while clips are rendered.

    Raises:
        UserError: Something that the section names is missing, empty or malformed; says what and the way out.
    """
    raise TypeError(f"no source for {type(data).__name__}")


@list_clips.register
def _(data: GeneratedData, *, seed: int, cache: Path, progress: Any = None) -> Listing:
    folder = _generated_folder(data, seed, cache)
    index = generate(folder, data, seed, progress=progress)
    rules: dict[str, dict[str, list[str]]] = {split: {"split": [split]} for split in SPLITS}
    table = TableData(kind="csv", root=folder, **rules)
    return _listing(_table_entries(table, index, rules), "rendered here; splits by seed")


def _generated_folder(data: GeneratedData, seed: int, cache: Path) -> Path:
    return cache / "generated" / "-".join(map(str, (*data.model_dump().values(), seed, f"v{VERSION}")))


def is_rendered(data: GeneratedData, seed: int, cache: Path) -> bool:
    """Whether the generated clips lie in the cache."""
    return (_generated_folder(data, seed, cache) / "index.csv").exists()


def listed_classes(data: Section, *, seed: int, cache: Path) -> tuple[str, ...]:
    """The classes of a recipe's data section, before any clip is rendered or decoded.

    Raises:
        UserError: See ``list_clips``.
    """
    if isinstance(data, GeneratedData):
        return classes_of(data)
    return list_clips(data, seed=seed, cache=cache).classes


@list_clips.register
def _(data: TableData, *, seed: int, cache: Path, progress: Any = None) -> Listing:
    rules = {"train": data.train, "val": data.val, "test": data.test}
    entries = _table_entries(data, data.root / data.file, rules)
    said = "; ".join(f"{split}: {', '.join(f'{c} in {v}' for c, v in rules[split].items())}" for split in SPLITS)
    return _listing(entries, said, annotators=data.votes)


@list_clips.register
def _(data: FolderData, *, seed: int, cache: Path, progress: Any = None) -> Listing:
    train, rng = _folder_entries(data.root, "train"), np.random.default_rng(seed)
    entries = list(train)
    held: tuple[tuple[Split, Path | None, float], ...]
    held = (("val", data.val_root, data.val), ("test", data.test_root, data.test))
    for split, root, share in held:
        if root is not None:
            entries += _folder_entries(root, split)
        else:
            entries = _hold_out(entries, split, share * len(train), rng)
    note = "validation and test are shares of the same folder: their labels are trusted only if the folder's are"
    return _listing(entries, "folders" if data.val_root and data.test_root else note)


@list_clips.register
def _(data: ListData, *, seed: int, cache: Path, progress: Any = None) -> Listing:
    names = _read_text(data.root / data.classes).split("\n") if data.classes else []
    names = [n.strip() for n in names if n.strip()]
    entries: list[Entry] = []
    for split in SPLITS:
        file = data.root / getattr(data, split)
        for number, line in enumerate(_read_text(file).splitlines(), 1):
            if not line.strip():
                continue
            path, _, label = line.strip().rpartition(" ")
            if not path:
                raise UserError(f"{file}:{number}: a line reads 'path label', not {line.strip()!r}")
            if names and label.isdecimal():
                if int(label) >= len(names):
                    raise UserError(f"{file}:{number}: label {label}, but {data.classes} names {len(names)} classes")
                label = names[int(label)]
            elif names and label not in names:
                raise UserError(f"{file}:{number}: class {label!r} is not in {data.classes}")
            entries.append(Entry(data.root / path, path, label, split, path))
    return _listing(entries, "split files", tuple(names) or None)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check data.root and the file's name in the recipe") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def _table_entries(data: TableData, file: Path, rules: dict[str, dict[str, list[str]]]) -> list[Entry]:
    rows = csv.DictReader(_read_text(file).splitlines())
    ruled = [column for rule in rules.values() for column in rule]
    wanted = {data.path, data.label, *data.votes, *([data.group] if data.group else []), *ruled}
    if missing := sorted(wanted - set(rows.fieldnames or ())):
        raise UserError(f"{file} has no column {missing[0]!r}; its columns are: {', '.join(rows.fieldnames or ())}")
    entries = []
    for row in _records(rows, file):
        at = f"{file}:{rows.line_num}"
        if short := [column for column in rows.fieldnames or () if column in wanted and row[column] is None]:
            raise UserError(f"{at}: this row ends before its {short[0]!r}; give every row as many cells as the header")
        splits = [s for s in SPLITS if all(row[column] in values for column, values in rules[s].items())]
        if len(splits) > 1:
            raise UserError(f"{at}: {row[data.path]} is in {' and '.join(splits)}; splits must not overlap")
        if splits:
            entries.append(_table_entry(data, row, splits[0], at))
    return entries


def _table_entry(data: TableData, row: dict[str, str], split: Split, at: str) -> Entry:
    """One row of a table; a training clip may go without a label, a trusted one may not."""
    path, label, votes = row[data.path], row[data.label].strip(), tuple(row[column].strip() for column in data.votes)
    if not path:
        raise UserError(f"{at}: the {data.path!r} of this row is empty")
    if not label and split != "train":
        raise UserError(
            f"{at}: the {data.label!r} of this row is empty, and it is in {split}: trusted clips need a label; "
            "fill it in, or leave the row out of every split (only training clips may be unlabelled)"
        )
    train = split == "train"
    group = row[data.group] if data.group else path
    return Entry(data.root / path, path, "" if train and votes else label, split, group, votes if train else ())


def _records(rows: csv.DictReader[str], file: Path) -> Iterable[dict[str, str]]:
    try:
        yield from rows
    except csv.Error as error:
        raise UserError(f"{file}:{rows.line_num + 1}: {error}") from None


def _folder_entries(root: Path, split: Split) -> list[Entry]:
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; data.root names the folder that holds one folder for each class")
    found = [
        Entry(video, f"{folder.name}/{video.relative_to(folder).as_posix()}", folder.name, split, video.stem)
        for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        for video in sorted(folder.rglob("*"))
        if video.suffix.lower() in VIDEOS
    ]
    if not found:
        raise UserError(f"{root} holds no videos: expected {root}/<class>/<video>, endings {' '.join(sorted(VIDEOS))}")
    return found


def _hold_out(entries: list[Entry], split: Split, count: float, rng: np.random.Generator) -> list[Entry]:
    """Move about ``count`` training clips into ``split``, the same share of every class, never a class's last clip."""
    by_class: dict[str, list[int]] = {}
    for i, entry in enumerate(entries):
        if entry.split == "train":
            by_class.setdefault(entry.label, []).append(i)
    total = sum(map(len, by_class.values()))
    moved: set[int] = set()
    for members in by_class.values():
        take = min(round(count * len(members) / total), len(members) - 1)
        moved.update(rng.permutation(members)[:take].tolist())
    return [Entry(e.path, e.name, e.label, split, e.group) if i in moved else e for i, e in enumerate(entries)]


def _listing(
    entries: Iterable[Entry], note: str, classes: tuple[str, ...] | None = None, annotators: tuple[str, ...] = ()
) -> Listing:
    entries = tuple(sorted(entries, key=lambda e: SPLITS.index(e.split)))  # a split stands together in the store
    classes = classes or tuple(sorted({name for e in entries for name in _said(e)}))
    for split in SPLITS:
        if not any(e.split == split for e in entries):
            raise UserError(f"the recipe's data gives no {split} clips; check the rules of data.{split}")
    train = Counter(name for e in entries if e.split == "train" for name in _said(e))
    if not train:
        what = f"every vote in {', '.join(annotators)} abstains" if annotators else "every label is empty"
        raise UserError(
            f"no training clip has a label: {what}; label some clips of each class (data.label, data.votes)"
        )
    if len(train) < 2:
        raise UserError(f"the training clips have one class only ({', '.join(train)}); a classifier needs two or more")
    trusted = Counter(e.label for e in entries if e.split == "val")
    for split in ("val", "test"):
        if unknown := sorted({e.label for e in entries if e.split == split} - set(train)):
            raise UserError(f"class {unknown[0]!r} has {split} clips and no training clip; classes: {', '.join(train)}")
    if poor := [c for c in classes if train[c] == 1 or trusted[c] == 0]:
        what = "one training clip" if train[poor[0]] == 1 else "no trusted validation clip"
        raise UserError(f"class {poor[0]!r} has {what}; add clips, or leave the class out of the data")
    return Listing(classes, entries, note, annotators)


def _said(entry: Entry) -> set[str]:
    """The classes that somebody names for a clip."""
    return {entry.label, *entry.votes} - {""}
