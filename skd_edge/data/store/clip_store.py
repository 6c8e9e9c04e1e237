"""The clip store: every video decoded once, into one memory-mapped array that training reads without a copy.

A store is named by what went in (files by name, size and time; sampling; size) and carries the hash of the pixels that
came out; jobs are named by the latter, so the same clips give the same jobs on another machine.
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
from skd_bench.video.types import WHOLE_FILE, ClipSpan, Preprocessing, Sampling
from skd_edge.data.sources.registry import SPLITS, ClipEntry, ClipListing, Split
from skd_edge.data.store.builder import CLIP_TIMEOUT_S, build_store
from skd_edge.data.store.decode_task import DecoderName

_LAYOUT_VERSION = 2  # of a store's files: raise it when they change


@dataclass(frozen=True)
class ClipSplit:
    """The clips of one split.

    Attributes:
        ids: ``(N,)`` position in the store, the name that views are drawn by.
        clips: ``(N, T, H, W, 3)`` uint8, memory-mapped.
        labels: ``(N,)`` class index, as listed: weak for training (-1: unlabelled), trusted for validation and test.
        groups: ``(N,)`` integers; clips of one group come from one source video.
        names: the clips' paths relative to the data's root.
        hash: of pixels and labels, and of groups where a group has several clips.
        files: the videos, where they are known.
        spans: which part of its file each clip is.
    """

    ids: NDArray[np.int64]
    clips: NDArray[np.uint8]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    names: tuple[str, ...]
    hash: str
    files: tuple[Path, ...] = ()
    spans: tuple[ClipSpan, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class ClipDataset:
    """All splits of a recipe, and the files that could not be read."""

    classes: tuple[str, ...]
    train: ClipSplit
    val: ClipSplit
    test: ClipSplit
    quarantined: tuple[dict[str, str], ...]
    note: str


def open_store(
    listing: ClipListing,
    sampling: Sampling,
    preprocess: Preprocessing,
    cache: Path,
    *,
    min_clips: float,
    decoder: DecoderName = "pyav",
    processes: int | None = None,
    timeout: float = CLIP_TIMEOUT_S,
    progress: Callable[[int, int], None] | None = None,
) -> ClipDataset:
    """Open the store of these clips, decoding them first where that has not been done.

    Raises:
        UserError: Fewer than ``min_clips`` of the listed clips are readable, a class or the test split lost its last.
    """
    folder, store_info = ensure_store(
        listing, sampling, preprocess, cache, decoder=decoder, processes=processes, timeout=timeout, progress=progress
    )
    bad = set(store_info["bad"])  # by place: two splits may hold files of one name
    good = [e for i, e in enumerate(listing.entries) if i not in bad]
    if len(good) < min_clips * len(listing.entries):
        first = store_info["quarantined"][0]
        raise UserError(
            f"{len(bad)} of {len(listing.entries)} clips cannot be read (first: {first['path']}: {first['reason']}); "
            f"min_clips asks for {min_clips:.0%}: repair or remove them, or lower min_clips"
        )
    pixels = np.load(folder / "clips.npy", mmap_mode="r")
    sets = {split: _make_clip_split(split, good, pixels, store_info["hash"], listing.classes) for split in SPLITS}
    for name, index in ((n, i) for i, n in enumerate(listing.classes)):
        if not (sets["train"].labels == index).any() or not (sets["val"].labels == index).any():
            raise UserError(f"class {name!r} has no readable clip left in train or val; see the quarantined files")
    if len(sets["test"]) == 0:
        raise UserError("there is no readable test clip left; see the quarantined files")
    return ClipDataset(
        listing.classes, sets["train"], sets["val"], sets["test"], tuple(store_info["quarantined"]), listing.note
    )


def ensure_store(
    listing: ClipListing,
    sampling: Sampling,
    preprocess: Preprocessing,
    cache: Path,
    *,
    decoder: DecoderName = "pyav",
    processes: int | None = None,
    timeout: float = CLIP_TIMEOUT_S,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, dict[str, Any]]:
    """The folder of these clips' store, built where it is not there, and its card, whatever could not be read.

    Raises:
        UserError: See ``build``.
    """
    folder = cache / "stores" / _compute_store_key(listing.entries, sampling, preprocess, decoder)
    if not (folder / "store.json").exists():
        build_store(
            folder,
            listing.entries,
            sampling,
            preprocess,
            decoder=decoder,
            processes=processes,
            timeout=timeout,
            progress=progress,
        )
    return folder, json.loads((folder / "store.json").read_text())


def is_store_built(
    listing: ClipListing, sampling: Sampling, preprocess: Preprocessing, cache: Path, decoder: DecoderName = "pyav"
) -> bool:
    """Whether these clips are decoded already."""
    return (
        cache / "stores" / _compute_store_key(listing.entries, sampling, preprocess, decoder) / "store.json"
    ).exists()


def _compute_store_key(
    entries: tuple[ClipEntry, ...], sampling: Sampling, preprocess: Preprocessing, decoder: DecoderName
) -> str:
    hasher = hashlib.sha256(
        repr((_LAYOUT_VERSION, sampling, preprocess.height, preprocess.width, preprocess.fit)).encode()
    )
    if preprocess.fit == "pad":  # only then do the stored pixels depend on the colour
        hasher.update(repr(preprocess.mean).encode())
    if decoder != "pyav":
        hasher.update(decoder.encode())
    seen: dict[str, str] = {}  # many clips may lie in one file
    for entry in entries:
        if (path := str(entry.path)) not in seen:
            seen[path] = _format_file_stamp(entry.path)
        where = "" if entry.span == WHOLE_FILE else f"\0{entry.span}"
        hasher.update(f"{path}\0{seen[path]}{where}\n".encode("utf-8", "surrogateescape"))
    return hasher.hexdigest()[:16]


def _format_file_stamp(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return "missing"
    return f"{stat.st_size}\0{stat.st_mtime_ns}"


def _make_clip_split(
    split: Split, good: list[ClipEntry], pixels: NDArray[np.uint8], digest: str, classes: tuple[str, ...]
) -> ClipSplit:
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
    return ClipSplit(ids, clips, labels, groups, names, key.hexdigest(), files, tuple(good[i].span for i in rows))
