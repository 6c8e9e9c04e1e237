"""Where clips come from: each kind of source becomes one list of entries with a weak label and a split."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np

from skd_bench.errors import UserError
from skd_edge.data.entries import SPLITS, VIDEOS, Entry, Listing, Split, grouped_by, hold_out, listing
from skd_edge.data.generate import VERSION, classes_of, generate
from skd_edge.data.lists import kinetics, official, path_label_lists
from skd_edge.data.shards import shards
from skd_edge.data.tables import table
from skd_edge.recipe import (
    FolderData,
    GeneratedData,
    KineticsData,
    ListData,
    OfficialData,
    Part,
    ShardData,
    TableData,
)

__all__ = ["SPLITS", "VIDEOS", "Entry", "Listing", "Split", "is_rendered", "list_clips", "listed_classes"]


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
    generate(folder, data, seed, progress=progress)
    rules: dict[str, dict[str, list[str]]] = {split: {"split": [split]} for split in SPLITS}
    return table(TableData(kind="csv", root=folder, **rules), "rendered here; splits by seed")


def _generated_folder(data: GeneratedData, seed: int, cache: Path) -> Path:
    return cache / "generated" / "-".join(map(str, (*data.model_dump().values(), seed, f"v{VERSION}")))


def is_rendered(data: GeneratedData, seed: int, cache: Path) -> bool:
    """Whether the generated clips lie in the cache."""
    return (_generated_folder(data, seed, cache) / "index.csv").exists()


def listed_classes(data: Part, *, seed: int, cache: Path) -> tuple[str, ...]:
    """The classes of a recipe's data section, before any clip is rendered or decoded.

    Raises:
        UserError: See ``list_clips``.
    """
    if isinstance(data, GeneratedData):
        return classes_of(data)
    return list_clips(data, seed=seed, cache=cache).classes


@list_clips.register
def _(data: TableData, *, seed: int, cache: Path, progress: Any = None) -> Listing:
    return table(data)


@list_clips.register
def _(data: ListData, *, seed: int, cache: Path, progress: Any = None) -> Listing:
    return path_label_lists(data)


@list_clips.register
def _(data: OfficialData, *, seed: int, cache: Path, progress: Any = None) -> Listing:
    return official(data, seed)


@list_clips.register
def _(data: KineticsData, *, seed: int, cache: Path, progress: Any = None) -> Listing:
    return kinetics(data)


@list_clips.register
def _(data: ShardData, *, seed: int, cache: Path, progress: Any = None) -> Listing:
    return shards(data)


@list_clips.register
def _(data: FolderData, *, seed: int, cache: Path, progress: Any = None) -> Listing:
    group = grouped_by(data.group)
    train, rng = _folder_entries(data.root, "train", group), np.random.default_rng(seed)
    entries = list(train)
    held: tuple[tuple[Split, Path | None, float], ...]
    held = (("val", data.val_root, data.val), ("test", data.test_root, data.test))
    for split, root, share in held:
        if root is not None:
            entries += _folder_entries(root, split, group)
        else:
            entries = hold_out(entries, split, share * len(train), rng)
    note = "validation and test are shares of the same folder: their labels are trusted only if the folder's are"
    return listing(entries, "folders" if data.val_root and data.test_root else note, folders=False)


def _folder_entries(root: Path, split: Split, group: Callable[[str], str]) -> list[Entry]:
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; data.root names the folder that holds one folder for each class")
    found = [
        Entry(video, name := f"{folder.name}/{video.relative_to(folder).as_posix()}", folder.name, split, group(name))
        for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        for video in sorted(folder.rglob("*"))
        if video.suffix.lower() in VIDEOS
    ]
    if not found:
        raise UserError(f"{root} holds no videos: expected {root}/<class>/<video>, endings {' '.join(sorted(VIDEOS))}")
    return found
