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

from skd_bench.errors import UserError
from skd_edge.data.generate import VERSION, generate
from skd_edge.recipe import FolderData, GeneratedData, ListData, Part, TableData

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
VIDEOS = frozenset((".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp"))


@dataclass(frozen=True)
class Entry:
    """One listed clip; ``name`` is its path relative to the data's root and identifies it everywhere."""

    path: Path
    name: str
    label: str
    split: Split
    group: str


@dataclass(frozen=True)
class Listing:
    """Every clip of a recipe, classes sorted by name (or in the order that the user's class file gives)."""

    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    note: str


@singledispatch
def list_clips(data: Part, *, seed: int, cache: Path, progress: Callable[[int, int], None] | None = None) -> Listing:
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
    return _listing(_table_entries(folder, index, "path", "label", None, rules), "rendered here; splits by seed")


def _generated_folder(data: GeneratedData, seed: int, cache: Path) -> Path:
    return cache / "generated" / "-".join(map(str, (*data.model_dump().values(), seed, f"v{VERSION}")))


def is_rendered(data: GeneratedData, seed: int, cache: Path) -> bool:
    """Whether the generated clips lie in the cache."""
    return (_generated_folder(data, seed, cache) / "index.csv").exists()


@list_clips.register
def _(data: TableData, *, seed: int, cache: Path, progress: Any = None) -> Listing:
    rules = {"train": data.train, "val": data.val, "test": data.test}
    entries = _table_entries(data.root, data.root / data.file, data.path, data.label, data.group, rules)
    said = "; ".join(f"{split}: {', '.join(f'{c} in {v}' for c, v in rules[split].items())}" for split in SPLITS)
    return _listing(entries, said)


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


def _table_entries(
    root: Path, file: Path, path: str, label: str, group: str | None, rules: dict[str, dict[str, list[str]]]
) -> list[Entry]:
    rows = csv.DictReader(_read_text(file).splitlines())
    wanted = {path, label, *([group] if group else []), *(column for rule in rules.values() for column in rule)}
    if missing := sorted(wanted - set(rows.fieldnames or ())):
        raise UserError(f"{file} has no column {missing[0]!r}; its columns are: {', '.join(rows.fieldnames or ())}")
    entries = []
    for row in _records(rows, file):
        if not row[path] or not row[label]:
            raise UserError(f"{file}:{rows.line_num}: the {path!r} or the {label!r} of this row is empty")
        splits = [s for s in SPLITS if all(row[column] in values for column, values in rules[s].items())]
        if len(splits) > 1:
            raise UserError(
                f"{file}:{rows.line_num}: {row[path]} is in {' and '.join(splits)}; splits must not overlap"
            )
        if splits:
            entries.append(
                Entry(root / row[path], row[path], row[label], splits[0], row[group] if group else row[path])
            )
    return entries


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


def _listing(entries: Iterable[Entry], note: str, classes: tuple[str, ...] | None = None) -> Listing:
    entries = tuple(sorted(entries, key=lambda e: SPLITS.index(e.split)))  # a split stands together in the store
    classes = classes or tuple(sorted({e.label for e in entries}))
    for split in SPLITS:
        if not any(e.split == split for e in entries):
            raise UserError(f"the recipe's data gives no {split} clips; check the rules of data.{split}")
    train = Counter(e.label for e in entries if e.split == "train")
    if len(train) < 2:
        raise UserError(f"the training clips have one class only ({', '.join(train)}); a classifier needs two or more")
    trusted = Counter(e.label for e in entries if e.split == "val")
    for split in ("val", "test"):
        if unknown := sorted({e.label for e in entries if e.split == split} - set(train)):
            raise UserError(f"class {unknown[0]!r} has {split} clips and no training clip; classes: {', '.join(train)}")
    if poor := [c for c in classes if train[c] == 1 or trusted[c] == 0]:
        what = "one training clip" if train[poor[0]] == 1 else "no trusted validation clip"
        raise UserError(f"class {poor[0]!r} has {what}; add clips, or leave the class out of the data")
    return Listing(classes, entries, note)
