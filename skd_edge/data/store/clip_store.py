"""The clip store: every video decoded once, into one memory-mapped array that training reads without a copy.

A store is named by what went in (files by name, size and time; sampling; size) and carries the hash of the pixels that
came out; legs are named by the latter, so the same clips give the same legs on another machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skd_bench.errors import UserError
from skd_bench.video.clip import WHOLE, Part, Preprocess, Sampling
from skd_edge.data.sources.registry import SPLITS, Entry, Listing, Split
from skd_edge.data.store.builder import PATIENCE, build
from skd_edge.data.store.decode_task import Decoder

_LAYOUT = 2  # of a store's files: raise it when they change


@dataclass(frozen=True)
class ClipSet:
    """The clips of one split.

    Attributes:
        ids: ``(N,)`` position in the store, the name that views are drawn by.
        clips: ``(N, T, H, W, 3)`` uint8, memory-mapped.
        labels: ``(N,)`` class index, as listed: weak for training (-1: unlabelled), trusted for validation and test.
        groups: ``(N,)`` integers; clips of one group come from one source video.
        names: the clips' paths relative to the data's root.
        hash: of pixels and labels, and of groups where a group has several clips.
        files: the videos, where they are known.
        parts: which part of its file each clip is.
    """

    ids: NDArray[np.int64]
    clips: NDArray[np.uint8]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    names: tuple[str, ...]
    hash: str
    files: tuple[Path, ...] = ()
    parts: tuple[Part, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Clips:
    """All splits of a recipe, and the files that could not be read."""

    classes: tuple[str, ...]
    train: ClipSet
    val: ClipSet
    test: ClipSet
    quarantined: tuple[dict[str, str], ...]
    note: str


def open_store(
    listing: Listing,
    sampling: Sampling,
    preprocess: Preprocess,
    cache: Path,
    *,
    min_clips: float,
    by: Decoder = "pyav",
    processes: int | None = None,
    patience: float = PATIENCE,
    progress: Callable[[int, int], None] | None = None,
) -> Clips:
    """Open the store of these clips, decoding them first where that has not been done.

    Raises:
        UserError: Fewer than ``min_clips`` of the listed clips are readable, a class or the test split lost its last.
    """
    folder, card = filled(
        listing, sampling, preprocess, cache, by=by, processes=processes, patience=patience, progress=progress
    )
    bad = set(card["bad"])  # by place: two splits may hold files of one name
    good = [e for i, e in enumerate(listing.entries) if i not in bad]
    if len(good) < min_clips * len(listing.entries):
        first = card["quarantined"][0]
        raise UserError(
            f"{len(bad)} of {len(listing.entries)} clips cannot be read (first: {first['path']}: {first['reason']}); "
            f"min_clips asks for {min_clips:.0%}: repair or remove them, or lower min_clips"
        )
    pixels = np.load(folder / "clips.npy", mmap_mode="r")
    sets = {split: _subset(split, good, pixels, card["hash"], listing.classes) for split in SPLITS}
    for name, index in ((n, i) for i, n in enumerate(listing.classes)):
        if not (sets["train"].labels == index).any() or not (sets["val"].labels == index).any():
            raise UserError(f"class {name!r} has no readable clip left in train or val; see the quarantined files")
    if len(sets["test"]) == 0:
        raise UserError("there is no readable test clip left; see the quarantined files")
    return Clips(listing.classes, sets["train"], sets["val"], sets["test"], tuple(card["quarantined"]), listing.note)


def filled(
    listing: Listing,
    sampling: Sampling,
    preprocess: Preprocess,
    cache: Path,
    *,
    by: Decoder = "pyav",
    processes: int | None = None,
    patience: float = PATIENCE,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, dict[str, Any]]:
    """The folder of these clips' store, built where it is not there, and its card, whatever could not be read.

    Raises:
        UserError: See ``build``.
    """
    folder = cache / "stores" / _key(listing.entries, sampling, preprocess, by)
    if not (folder / "store.json").exists():
        build(folder, listing.entries, sampling, preprocess, by=by, processes=processes, patience=patience,
              progress=progress)  # fmt: skip
    return folder, json.loads((folder / "store.json").read_text())


def is_built(listing: Listing, sampling: Sampling, preprocess: Preprocess, cache: Path, by: Decoder = "pyav") -> bool:
    """Whether these clips are decoded already."""
    return (cache / "stores" / _key(listing.entries, sampling, preprocess, by) / "store.json").exists()


def _key(entries: tuple[Entry, ...], sampling: Sampling, preprocess: Preprocess, by: Decoder) -> str:
    what = hashlib.sha256(repr((_LAYOUT, sampling, preprocess.height, preprocess.width, preprocess.fit)).encode())
    if preprocess.fit == "pad":  # only then do the stored pixels depend on the colour
        what.update(repr(preprocess.mean).encode())
    if by != "pyav":
        what.update(by.encode())
    seen: dict[str, str] = {}  # many clips may lie in one file
    for entry in entries:
        if (path := str(entry.path)) not in seen:
            seen[path] = _looks(entry.path)
        where = "" if entry.part == WHOLE else f"\0{entry.part}"
        what.update(f"{path}\0{seen[path]}{where}\n".encode("utf-8", "surrogateescape"))
    return what.hexdigest()[:16]


def _looks(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return "missing"
    return f"{stat.st_size}\0{stat.st_mtime_ns}"


def _subset(
    split: Split, good: list[Entry], pixels: NDArray[np.uint8], digest: str, classes: tuple[str, ...]
) -> ClipSet:
    rows = [i for i, e in enumerate(good) if e.split == split]
    first, last = (rows[0], rows[-1] + 1) if rows else (0, 0)
    ids = np.array(rows, np.int64)
    # Splits that stand together are read in place; scattered ones are gathered once.
    clips = pixels[first:last] if len(rows) == last - first else pixels[ids]
    index = {name: i for i, name in enumerate(classes)}
    labels = np.array([index[label] if (label := good[i].label) else -1 for i in rows], np.int64)
    numbers = {g: n for n, g in enumerate(dict.fromkeys(good[i].group for i in rows))}
    groups = np.array([numbers[good[i].group] for i in rows], np.int64)
    key = hashlib.sha256(f"{digest} {split}".encode() + ids.tobytes() + labels.tobytes())
    if len(numbers) < len(groups):  # then who belongs together matters to folds and neighbours
        key.update(groups.tobytes())
    names, files = tuple(good[i].name for i in rows), tuple(good[i].path for i in rows)
    return ClipSet(ids, clips, labels, groups, names, key.hexdigest(), files, tuple(good[i].part for i in rows))
