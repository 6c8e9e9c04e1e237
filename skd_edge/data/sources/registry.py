"""Where clips come from: each kind of source becomes one list of entries with a weak label and a split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np

from skd_bench.errors import UserError
from skd_edge.data.sources.listing import (
    SPLITS,
    VIDEOS,
    Entry,
    Listing,
    Split,
    check_classes,
    check_trusted,
    grouped_by,
    hold_out,
    listing,
)
from skd_edge.data.sources.synthetic import VERSION, classes_of, generate
from skd_edge.data.sources.tables import table
from skd_edge.data.sources.video_datasets import kinetics, official, path_label_lists
from skd_edge.data.sources.webdataset import shards
from skd_edge.recipe.data import FolderData, GeneratedData, KineticsData, ListData, OfficialData, ShardData, TableData
from skd_edge.recipe.schema import Part

__all__ = ["SPLITS", "VIDEOS", "Entry", "Listing", "Split", "is_rendered", "list_clips", "listed_classes"]


def list_clips(
    data: Part,
    *,
    seed: int,
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
    elsewhere: bool = False,
) -> Listing:
    """List the clips of a recipe's data section.

    Args:
        data: The section.
        seed: Draws splits and the generated set.
        cache: Where the generated set is rendered.
        progress: Called with (done, total) while clips are rendered.
        elsewhere: Whether rules, models or a trusted file will label training clips (``Labels.elsewhere``): then the
            data itself need not, and its classes are those of the validation clips.

    Raises:
        UserError: Something that the section names is missing, empty or malformed; says what and the way out.
    """
    found = _listed(data, seed=seed, cache=cache, progress=progress)
    (check_trusted if elsewhere else check_classes)(found)
    return found


@singledispatch
def _listed(data: Part, *, seed: int, cache: Path, progress: Any) -> Listing:
    raise TypeError(f"no source for {type(data).__name__}")


@_listed.register
def _(data: GeneratedData, *, seed: int, cache: Path, progress: Any) -> Listing:
    folder = _generated_folder(data, seed, cache)
    generate(folder, data, seed, progress=progress)
    rules: dict[str, dict[str, list[str]]] = {split: {"split": [split]} for split in SPLITS}
    return table(TableData(kind="csv", root=folder, **rules), "rendered here; splits by seed")


def _generated_folder(data: GeneratedData, seed: int, cache: Path) -> Path:
    return cache / "generated" / "-".join(map(str, (*data.model_dump().values(), seed, f"v{VERSION}")))


def is_rendered(data: GeneratedData, seed: int, cache: Path) -> bool:
    """Whether the generated clips lie in the cache."""
    return (_generated_folder(data, seed, cache) / "index.csv").exists()


def listed_classes(data: Part, *, seed: int, cache: Path, elsewhere: bool = False) -> tuple[str, ...]:
    """The classes of a recipe's data section, before any clip is rendered or decoded; arguments as ``list_clips``.

    Raises:
        UserError: See ``list_clips``.
    """
    if isinstance(data, GeneratedData):
        return classes_of(data)
    return list_clips(data, seed=seed, cache=cache, elsewhere=elsewhere).classes


@_listed.register
def _(data: TableData, *, seed: int, cache: Path, progress: Any) -> Listing:
    return table(data)


@_listed.register
def _(data: ListData, *, seed: int, cache: Path, progress: Any) -> Listing:
    return path_label_lists(data)


@_listed.register
def _(data: OfficialData, *, seed: int, cache: Path, progress: Any) -> Listing:
    return official(data, seed)


@_listed.register
def _(data: KineticsData, *, seed: int, cache: Path, progress: Any) -> Listing:
    return kinetics(data)


@_listed.register
def _(data: ShardData, *, seed: int, cache: Path, progress: Any) -> Listing:
    return shards(data)


@_listed.register
def _(data: FolderData, *, seed: int, cache: Path, progress: Any) -> Listing:
    group, rng = grouped_by(data.group), np.random.default_rng(seed)
    if data.root is None:
        entries, note = _trusted_only(data, group, rng)
    else:
        entries, note = _shared_out(data, data.root, group, rng)
    untold = _unlabelled(data.unlabelled, group, {e.path for e in entries}) if data.unlabelled else []
    labelled = {e.name for e in entries if e.split == "train"}
    if twice := [e.name for e in untold if e.name in labelled]:
        raise UserError(f"{twice[0]} lies in {data.root} and in {data.unlabelled}; rename one of the two")
    return listing([*entries, *untold], note, folders=False)


def _shared_out(
    data: FolderData, root: Path, group: Callable[[str], str], rng: np.random.Generator
) -> tuple[list[Entry], str]:
    """Folders of training clips; validation and test from folders of their own, or shares of these."""
    train = _folder_entries(root, "train", group, data.unlabelled)
    entries = list(train)
    held: tuple[tuple[Split, Path | None, float], ...]
    held = (("val", data.val_root, data.val), ("test", data.test_root, data.test))
    for split, folder, share in held:
        if folder is not None:
            entries += _folder_entries(folder, split, group)
        else:
            entries = hold_out(entries, split, share * len(train), rng)
    note = "validation and test are shares of the same folder: their labels are trusted only if the folder's are"
    return entries, "folders" if data.val_root and data.test_root else note


def _trusted_only(data: FolderData, group: Callable[[str], str], rng: np.random.Generator) -> tuple[list[Entry], str]:
    """No labelled training clip: trusted folders for validation and test, or one that both share."""
    assert data.val_root is not None  # the recipe's own check
    if data.test_root is not None:
        own = _folder_entries(data.val_root, "val", group) + _folder_entries(data.test_root, "test", group)
        return own, "folders; no training clip is labelled by its folder"
    trusted = _folder_entries(data.val_root, "train", group)
    shared = hold_out(trusted, "test", data.test * len(trusted), rng)
    entries = [replace(e, split="val") if e.split == "train" else e for e in shared]
    return entries, "test is a share of the validation folder; no training clip is labelled by its folder"


def _unlabelled(root: Path, group: Callable[[str], str], known: set[Path]) -> list[Entry]:
    """Videos at any depth but those that are ``known``, as training clips without a label, named from ``root`` on."""
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; data.unlabelled names a folder of videos")
    found = [
        Entry(video, name := video.relative_to(root).as_posix(), "", "train", group(name))
        for video in sorted(root.rglob("*"))
        if video.suffix.lower() in VIDEOS and video not in known  # a trusted clip is never trained on
    ]
    if not found:
        raise UserError(
            f"{root} holds no videos beside those that data.root, val_root and test_root name (endings: "
            f"{' '.join(sorted(VIDEOS))}); data.unlabelled names a folder of more videos"
        )
    return found


def _folder_entries(root: Path, split: Split, group: Callable[[str], str], but: Path | None = None) -> list[Entry]:
    """``root/<class>/<video>``; the folder ``but`` is no class."""
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; data.root names the folder that holds one folder for each class")
    found = [
        Entry(video, name := f"{folder.name}/{video.relative_to(folder).as_posix()}", folder.name, split, group(name))
        for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".") and p != but)
        for video in sorted(folder.rglob("*"))
        if video.suffix.lower() in VIDEOS
    ]
    if not found:
        raise UserError(f"{root} holds no videos: expected {root}/<class>/<video>, endings {' '.join(sorted(VIDEOS))}")
    return found
