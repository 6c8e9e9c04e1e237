"""The clip store: every video is decoded once, into one memory-mapped array that training reads without a copy.

The folder of a store is named by its input: path, size and modification time of each file, sampling, and image size.
The store also records the hash of the decoded pixels. Job names depend on that hash, not on the input, so that the same
clips give the same jobs on another machine.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR

import numpy as np
from numpy.typing import NDArray

from skd_bench.errors import UserError
from skd_bench.video.types import WHOLE_FILE, ClipSpan, Preprocessing, Sampling
from skd_edge.data.sources.registry import SPLITS, ClipEntry, ClipListing, Split
from skd_edge.data.store.builder import STORE_FILE, Decoding, Progress, QuarantinedClip, StoreInfo, build_store
from skd_edge.data.store.copies import SplitCopy, explain_refused_copies, find_split_copies
from skd_edge.data.store.decode_task import DecoderName
from skd_edge.data.store.fingerprints import load_fingerprints
from skd_edge.data.store.store_check import read_intact_store

_LAYOUT_VERSION = 3  # of a store: raise it when the layout of its files changes, or the pixels of equal videos


@dataclass(frozen=True)
class ClipSplit:
    """The clips of one split.

    Attributes:
        ids: ``(N,)`` positions in the store; they seed the augmentation of each clip.
        clips: ``(N, T, H, W, 3)`` uint8, memory-mapped.
        labels: ``(N,)`` class indices as listed; weak labels for training clips (-1: unlabelled), checked labels for
            validation and test clips.
        groups: ``(N,)`` integers; clips with the same number come from the same source video.
        names: the clips' paths relative to the data's root.
        hash: of pixels and labels; also of groups, if a group has several clips.
        files: the video of each clip, if known.
        spans: the part of its file that each clip is.
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

    def select_rows(self, rows: NDArray[np.int64]) -> ClipSplit:
        """The clips of these rows, in this order, as a split with another hash; their pixels are copied into memory."""
        key = hashlib.sha256(f"{self.hash} rows".encode() + rows.astype(np.int64).tobytes()).hexdigest()
        arrays = (self.ids[rows], self.clips[rows], self.labels[rows], self.groups[rows])
        files, spans = (tuple(each[i] for i in rows) if each else () for each in (self.files, self.spans))
        return ClipSplit(*arrays, tuple(self.names[i] for i in rows), key, files, spans)


@dataclass(frozen=True)
class SealedSplit:
    """The test clips before the choice of a candidate: number, labels and hash are readable, pixels are not.

    Code that evaluates clips needs a ``ClipSplit``, so mypy reports a stage that would use the test clips too early.
    The pipeline unseals them in one place, ``open_test_set``.

    Attributes:
        sealed: the clips; read them with ``unseal`` only.
    """

    sealed: ClipSplit

    def __len__(self) -> int:
        return len(self.sealed)

    @property
    def hash(self) -> str:
        """Hash of the clips; names the test set in the ledger of this machine."""
        return self.sealed.hash

    @property
    def labels(self) -> NDArray[np.int64]:
        """``(N,)`` class indices; the number of clips of each class may be shown before the choice."""
        return self.sealed.labels

    @property
    def names(self) -> tuple[str, ...]:
        """The clips' paths relative to the data's root."""
        return self.sealed.names

    def unseal(self) -> ClipSplit:
        """The clips, to confirm a choice that was made without them."""
        return self.sealed


@dataclass(frozen=True)
class ClipDataset:
    """All splits of a recipe.

    Attributes:
        classes: class names; labels are indices into them.
        train: the training clips.
        val: the validation clips.
        test: the test clips, sealed until a candidate is chosen.
        quarantined: the unreadable clips.
        note: the remarks of the listing.
        copies: validation and test clips that are copies of clips in other splits.
    """

    classes: tuple[str, ...]
    train: ClipSplit
    val: ClipSplit
    test: SealedSplit
    quarantined: tuple[QuarantinedClip, ...]
    note: str
    copies: tuple[SplitCopy, ...] = ()


def open_store(
    listing: ClipListing,
    decoding: Decoding,
    cache: Path,
    *,
    min_clips: float,
    allow_test_copies: bool = False,
    compare_progress: Progress | None = None,
) -> ClipDataset:
    """Open the store of the listed clips; builds it first if it does not exist.

    Args:
        listing: the clips.
        decoding: how they are decoded.
        cache: the cache folder, which holds the stores.
        min_clips: share of the clips that must be readable, in [0, 1].
        allow_test_copies: whether test clips may be copies of clips in other splits.
        compare_progress: called with (done, total) while clips are compared with those of other splits.

    Raises:
        UserError: See ``check_readable_clips`` and ``build_store``; or test clips are copies, and that is not allowed.
    """
    folder, store_info = ensure_store(listing, decoding, cache)
    good = check_readable_clips(listing, store_info, min_clips=min_clips)
    copies = find_split_copies(load_fingerprints(folder, store_info["hash"], compare_progress), good)
    if not allow_test_copies and (reason := explain_refused_copies(copies)):
        raise UserError(reason)
    pixels = np.load(folder / "clips.npy", mmap_mode="r")
    sets = {split: make_clip_split(split, good, pixels, store_info["hash"], listing.classes) for split in SPLITS}
    return ClipDataset(
        listing.classes,
        sets["train"],
        sets["val"],
        SealedSplit(sets["test"]),
        tuple(store_info["quarantined"]),
        listing.note,
        copies,
    )


def list_readable_clips(listing: ClipListing, store_info: StoreInfo) -> list[ClipEntry]:
    """The clips that a store holds, in its order."""
    bad = set(store_info["bad"])  # by position: two splits may have files of the same name
    return [e for i, e in enumerate(listing.entries) if i not in bad]


def check_readable_clips(
    listing: ClipListing, store_info: StoreInfo, *, min_clips: float, external_labels: bool = False
) -> list[ClipEntry]:
    """Check that enough clips are readable to train on.

    Args:
        listing: the clips.
        store_info: which of them are unreadable.
        min_clips: share of the clips that must be readable, in [0, 1].
        external_labels: whether training clips get their labels later; then their classes are not checked.

    Returns:
        The readable clips.

    Raises:
        UserError: Too few clips are readable, a class has no readable clip in training or validation, or no test clip
            is readable.
    """
    good = list_readable_clips(listing, store_info)
    if len(good) < min_clips * len(listing.entries):
        first = store_info["quarantined"][0]
        raise UserError(
            f"{len(listing.entries) - len(good)} of {len(listing.entries)} clips cannot be read (first: "
            f"{first['path']}: {first['reason']}); min_clips requires {min_clips:.0%}: repair or remove these clips, "
            "or lower min_clips"
        )
    validated = {e.label for e in good if e.split == "val"}
    trained = {name for e in good if e.split == "train" for name in (e.checked, *((e.label,) if e.label else e.votes))}
    for name in listing.classes:
        if name not in validated or not (external_labels or name in trained):
            raise UserError(
                f"class {name!r} has no readable training clip or no readable validation clip; repair or replace the "
                "clips that skd-edge data scan lists as unreadable"
            )
    if not any(e.split == "test" for e in good):
        raise UserError("no test clip is readable; repair or replace the clips that skd-edge data scan lists")
    return good


def ensure_store(listing: ClipListing, decoding: Decoding, cache: Path) -> tuple[Path, StoreInfo]:
    """Build the store of the listed clips if it does not exist, or what is damaged of it; see `read_intact_store`.

    Any number of clips may be unreadable.

    Arguments are those of ``open_store``.

    Returns:
        The folder of the store, and the content of its ``store.json``.

    Raises:
        UserError: See ``build_store``.
    """
    key = _compute_store_key(listing.entries, decoding.sampling, decoding.preprocess, decoding.decoder)
    folder = cache / "stores" / key
    store_info = read_intact_store(folder)
    if store_info is None:
        build_store(folder, listing.entries, decoding)
        store_info = read_intact_store(folder)
    if store_info is None:
        raise UserError(f"the clip store {folder} cannot be read back; is the disk in order? Delete it, and run again")
    return folder, store_info


def is_store_built(
    listing: ClipListing, sampling: Sampling, preprocess: Preprocessing, cache: Path, decoder: DecoderName = "pyav"
) -> bool:
    """Whether the store of the listed clips is complete; arguments are those of ``open_store``."""
    key = _compute_store_key(listing.entries, sampling, preprocess, decoder)
    return (cache / "stores" / key / STORE_FILE).exists()


def _compute_store_key(
    entries: tuple[ClipEntry, ...], sampling: Sampling, preprocess: Preprocessing, decoder: DecoderName
) -> str:
    """The name of the store's folder: a hash of everything that decides its pixels."""
    hasher = hashlib.sha256(
        repr((_LAYOUT_VERSION, sampling, preprocess.height, preprocess.width, preprocess.fit)).encode()
    )
    if preprocess.fit == "pad":  # otherwise the stored pixels do not depend on the colour
        hasher.update(repr(preprocess.mean).encode())
    if decoder != "pyav":  # the default is left out, so that older stores keep their names
        hasher.update(decoder.encode())
    stamps: dict[str, str] = {}  # a file may hold many clips: stat it once
    for entry in entries:
        if (path := str(entry.path)) not in stamps:
            stamps[path] = format_file_stamp(entry.path)
        where = "" if entry.span == WHOLE_FILE else f"\0{_format_span(entry.span)}"
        hasher.update(f"{path}\0{stamps[path]}{where}\n".encode("utf-8", "surrogateescape"))
    return hasher.hexdigest()[:16]


def _format_span(span: ClipSpan) -> str:
    """A span as text; the default frame rate is left out, so that older stores keep their names."""
    rate = "" if span.frame_rate == WHOLE_FILE.frame_rate else f" at {span.frame_rate!r}"
    return f"ClipSpan(start={span.start!r}, end={span.end!r}, offset={span.offset!r}, size={span.size!r}){rate}"


def format_file_stamp(path: Path) -> str:
    """Size and modification time of a file, or of every file in a folder; a change gives the store another name.

    "missing" if the file or the folder cannot be read.
    """
    try:
        status = path.stat()
        if not S_ISDIR(status.st_mode):
            return f"{status.st_size}\0{status.st_mtime_ns}"
        with os.scandir(path) as files:  # a picture that is written anew does not change its folder
            found = sorted((f.name, s.st_size, s.st_mtime_ns) for f in files if (s := _read_status(f)))
    except OSError:
        return "missing"
    return hashlib.sha256(repr(found).encode()).hexdigest()


def _read_status(entry: os.DirEntry[str]) -> os.stat_result:
    """The status of a file; of the link itself where it leads nowhere, so that the other files still count."""
    try:
        return entry.stat()
    except OSError:
        return entry.stat(follow_symlinks=False)


def make_clip_split(
    split: Split, good: list[ClipEntry], pixels: NDArray[np.uint8], digest: str, classes: tuple[str, ...]
) -> ClipSplit:
    """The clips of one split.

    Args:
        split: the split.
        good: the N readable entries of all splits, in the order of the store.
        pixels: ``(N, T, H, W, 3)`` of the store.
        digest: hash of the pixels.
        classes: class names.
    """
    rows = [i for i, e in enumerate(good) if e.split == split]
    first, last = (rows[0], rows[-1] + 1) if rows else (0, 0)
    ids = np.array(rows, np.int64)
    # A split with consecutive rows is a view of the memory map; otherwise its clips are copied once.
    clips = pixels[first:last] if len(rows) == last - first else pixels[ids]
    index = {name: i for i, name in enumerate(classes)}
    labels = np.array([index[label] if (label := good[i].label) else -1 for i in rows], np.int64)
    numbers = {g: n for n, g in enumerate(dict.fromkeys(good[i].group for i in rows))}
    groups = np.array([numbers[good[i].group] for i in rows], np.int64)
    key = hashlib.sha256(f"{digest} {split}".encode() + ids.tobytes() + labels.tobytes())
    if len(numbers) < len(groups):  # then groups affect training: they decide folds and neighbours
        key.update(groups.tobytes())
    names, files = tuple(good[i].name for i in rows), tuple(good[i].path for i in rows)
    return ClipSplit(ids, clips, labels, groups, names, key.hexdigest(), files, tuple(good[i].span for i in rows))
