"""Copies of clips across splits: a test clip that is also a training clip flatters the accuracy on the test set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from skd_bench.untrusted.text import escape_name
from skd_edge.data.sources.listing import SPLITS, ClipEntry, Split
from skd_edge.data.store.fingerprints import HASH_BITS, Fingerprints

CopyKind = Literal["equal", "near"]
# A pair is a near-copy if its perceptual hashes differ in at most so many of 256 bits, and its small pictures correlate
# this much: their mean over the frames (the scene), and the frames without it (the motion). Measured by
# bench/suites/robustness/near_copies.py; docs/data.md has the error rates.
MAX_DIFFERENT_BITS = 64
MIN_SCENE_CORRELATION, MIN_MOTION_CORRELATION = 0.95, 0.95
_CANDIDATES = 32  # clips with the most similar hashes whose pictures are compared
_MOST_EQUAL = 100  # equal clips whose labels are compared
_QUERY_ROWS = 64  # clips that are compared with all others at a time
# A copy gives the answer away unless the copies in training contradict each other: less than this share agrees.
_AGREEING_SHARE = 2 / 3


@dataclass(frozen=True)
class SplitCopy:
    """A validation or test clip that is a copy of a clip in another split.

    Attributes:
        clip: name of the clip.
        split: its split: val or test.
        original: name of the clip that it copies.
        original_split: the split of that clip: train, or val.
        kind: "equal": the same pixels; "near": nearly the same, for example the same video encoded again.
        refused: whether the clip may not be in the test set: its copies give the answer away.
    """

    clip: str
    split: Split
    original: str
    original_split: Split
    kind: CopyKind
    refused: bool


def find_split_copies(fingerprints: Fingerprints, entries: Sequence[ClipEntry]) -> tuple[SplitCopy, ...]:
    """Find the validation clips that copy training clips, and the test clips that copy clips of both.

    Args:
        fingerprints: of N clips.
        entries: the N clips.
    """
    rows = {split: np.flatnonzero([e.split == split for e in entries]) for split in SPLITS}
    searches: list[tuple[Split, Split]] = [("val", "train"), ("test", "train"), ("test", "val")]
    originals: dict[int, list[tuple[int, CopyKind]]] = {}
    for split, other in searches:
        for row, original in _find_equal(fingerprints.exact, rows[split], rows[other]):
            originals.setdefault(row, []).append((original, "equal"))
        open_rows = np.array([row for row in rows[split] if row not in originals], np.int64)
        for row, original in find_near_copies(fingerprints, open_rows, rows[other]):
            originals.setdefault(row, []).append((original, "near"))
    copies = []
    for row, found in sorted(originals.items()):
        entry, (original, kind) = entries[row], found[0]
        refused = entry.split == "test" and _gives_answer_away(entry.label, [entries[i].label for i, _ in found])
        copies.append(
            SplitCopy(entry.name, entry.split, entries[original].name, entries[original].split, kind, refused)
        )
    return tuple(copies)


def _gives_answer_away(label: str, labels: list[str]) -> bool:
    """Whether the labels of a test clip's copies say anything: unless they name several classes, none clearly."""
    counts = Counter(each for each in labels if each)
    return len(counts) < 2 or counts[label] >= _AGREEING_SHARE * counts.total()


def _find_equal(
    exact: NDArray[np.uint8], rows: NDArray[np.int64], others: NDArray[np.int64]
) -> Iterator[tuple[int, int]]:
    """Pairs of a clip and another one with the same pixels; at most `_MOST_EQUAL` pairs for each clip."""
    by_digest: dict[bytes, list[int]] = {}
    for other in others.tolist():
        equal = by_digest.setdefault(exact[other].tobytes(), [])
        if len(equal) < _MOST_EQUAL:
            equal.append(other)
    for row in rows.tolist():
        yield from ((row, other) for other in by_digest.get(exact[row].tobytes(), []))


def find_near_copies(
    fingerprints: Fingerprints, rows: NDArray[np.int64], others: NDArray[np.int64]
) -> Iterator[tuple[int, int]]:
    """Yield pairs of a clip of ``rows`` and one of ``others`` that is nearly the same.

    Only the clips with the most similar hashes are compared. Clips without motion are never nearly the same: two
    recordings of one still scene cannot be told from copies.

    All hashes are compared by a product of matrices: bits as -1 and 1, so that the product of two rows is ``HASH_BITS``
    minus twice the number of different bits.
    """
    if not len(rows) or not len(others):
        return
    least, count = HASH_BITS - 2 * MAX_DIFFERENT_BITS, min(_CANDIDATES, len(others))
    signs = _unpack_signs(fingerprints.perceptual[others])
    for first in range(0, len(rows), _QUERY_ROWS):
        block = rows[first : first + _QUERY_ROWS]
        products = _unpack_signs(fingerprints.perceptual[block]) @ signs.T
        open_rows = np.flatnonzero((products >= least).any(axis=1))  # few, in most sets
        products = products[open_rows]
        nearest = np.sort(np.argpartition(products, -count, axis=1)[:, -count:], axis=1)
        places, ranks = np.nonzero(np.take_along_axis(products, nearest, axis=1) >= least)
        one, many = block[open_rows[places]], others[nearest[places, ranks]]
        near = _are_nearly_same(fingerprints.pictures[one], fingerprints.pictures[many])
        yield from zip(one[near].tolist(), many[near].tolist(), strict=True)


def _unpack_signs(perceptual: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(np.unpackbits(perceptual, axis=1).astype(np.float32) * 2 - 1)


def _are_nearly_same(ones: NDArray[np.float16], others: NDArray[np.float16]) -> NDArray[np.bool_]:
    """Whether each pair of small pictures ``(N, T, rows, columns)`` shows the same scene and the same motion."""
    (scene, motion), (other_scene, other_motion) = _split_scene_and_motion(ones), _split_scene_and_motion(others)
    return np.asarray(
        (_correlate(scene, other_scene) >= MIN_SCENE_CORRELATION)
        & (_correlate(motion, other_motion) >= MIN_MOTION_CORRELATION)
    )


def _split_scene_and_motion(pictures: NDArray[np.float16]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The mean picture of each clip, and what its frames differ from it; one row for each clip."""
    grey = pictures.astype(np.float32)
    scene = grey.mean(axis=1, keepdims=True)
    fields = grey.shape[2] * grey.shape[3]
    return scene.reshape(-1, fields), (grey - scene).reshape(-1, grey.shape[1] * fields)


def _correlate(ones: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pearson's correlation of corresponding rows; 0 where a row is constant."""
    ones, others = ones - ones.mean(axis=1, keepdims=True), others - others.mean(axis=1, keepdims=True)
    norms = np.sqrt((ones**2).sum(axis=1) * (others**2).sum(axis=1))
    return np.asarray((ones * others).sum(axis=1) / np.where(norms > 0, norms, np.inf), np.float32)


# ------------------------------------------------------------------------------------------ texts
def describe_copies(copies: Sequence[SplitCopy]) -> list[str]:
    """One sentence for each pair of splits and kind of copy; empty without copies."""
    groups: dict[tuple[Split, Split, CopyKind], list[SplitCopy]] = {}
    for copy in copies:
        groups.setdefault((copy.split, copy.original_split, copy.kind), []).append(copy)
    words = {"equal": "have the same pixels as", "near": "are nearly the same as"}
    return [
        f"{len(found)} {split} clips {words[kind]} {other} clips (first: {escape_name(found[0].clip)} and "
        f"{escape_name(found[0].original)})"
        for (split, other, kind), found in groups.items()
    ]


def explain_refused_copies(copies: Sequence[SplitCopy]) -> str | None:
    """Why these clips cannot be a test set, for an error message; None if they can."""
    refused = [copy for copy in copies if copy.refused]
    if not refused:
        return None
    first = refused[0]
    same = "has the same pixels as" if first.kind == "equal" else "is nearly the same as"
    return (
        f"{len(refused)} test clips are copies of training or validation clips (first: {escape_name(first.clip)} "
        f"{same} {escape_name(first.original)} in {first.original_split}), so the test accuracy would be too high: "
        "remove the copies (data scan lists them), keep the clips of one recording in one split (data.group), or set "
        "allow_test_copies: true"
    )
