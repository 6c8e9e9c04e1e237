"""Labels that a person checked: those of a CSV (``labels.trusted``), or for studies drawn from the listed labels."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skd_bench.errors import UserError
from skd_bench.listing.class_names import normalise_class_name
from skd_edge.data.csv_files import read_sheet
from skd_edge.data.sources.registry import ClipListing
from skd_edge.data.sources.trusted_clips import refuse_held_out_clips

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class CheckedSheet:
    """The decisions in a CSV.

    Attributes:
        labels: class name by clip.
        contradictions: clips with two different class names, and the line of the second; they are not in ``labels``.
    """

    labels: dict[str, str]
    contradictions: dict[str, int]


def read_checked_sheet(file: Path) -> CheckedSheet:
    """Read the columns ``clip`` and ``trusted`` of an edited ``audit.csv``; empty cells were not checked.

    Raises:
        UserError: The file cannot be read, or lacks a column.
    """
    labels: dict[str, str] = {}
    contradictions: dict[str, int] = {}
    for line, row in read_sheet(file, ["clip", "trusted"]):
        clip, label = row["clip"], normalise_class_name(row["trusted"])
        if label and labels.setdefault(clip, label) != label:
            contradictions.setdefault(clip, line)
    return CheckedSheet({clip: label for clip, label in labels.items() if clip not in contradictions}, contradictions)


def read_decisions(file: Path) -> dict[str, str]:
    """The class names in the column ``trusted`` of an audit's CSV, by clip.

    Raises:
        UserError: The file cannot be read, or gives a clip two labels.
    """
    sheet = read_checked_sheet(file)
    for clip, line in sheet.contradictions.items():
        raise UserError(f"{file}:{line}: {clip} has another label here than above; keep one of the rows")
    return sheet.labels


def apply_trusted_labels(listing: ClipListing, file: Path | None) -> tuple[ClipListing, tuple[str, ...]]:
    """Set the checked labels of a listing's training clips to those of a CSV; their weak labels stay.

    Args:
        listing: the clips.
        file: the CSV; None: the listing is returned unchanged.

    Returns:
        The listing, and a note for each reason why rows of the CSV were left out.

    Raises:
        UserError: The file cannot be read, no row of it can be used, or it names a validation or test clip, or a clip
            of a group that has such clips.
    """
    if file is None:
        return listing, ()
    sheet, train = read_checked_sheet(file), {e.name for e in listing.entries if e.split == "train"}
    # Splits in folders of their own may have files of the same name; then the sheet means the training clip.
    named = [e for e in listing.entries if e.name in sheet.labels and (e.split == "train" or e.name not in train)]
    refuse_held_out_clips(listing, named, set(), str(file))
    strange = {clip: label for clip, label in sheet.labels.items() if label not in listing.classes}
    unlisted = [clip for clip in sheet.labels if clip not in train]
    labels = {clip: label for clip, label in sheet.labels.items() if clip in train and clip not in strange}
    notes = []
    if sheet.contradictions:
        clip, line = next(iter(sheet.contradictions.items()))
        notes.append(f"{len(sheet.contradictions)} clips have two different labels (first: {clip}, line {line})")
    if strange:
        clip, label = next(iter(strange.items()))
        close = difflib.get_close_matches(label, listing.classes, 1, 0.6)
        hint = f"; did you mean {close[0]!r}?" if close else f"; classes: {', '.join(listing.classes[:40])}"
        notes.append(f"{len(strange)} labels are no class of the data (first: {label!r} of {clip}{hint})")
    if unlisted:
        notes.append(f"{len(unlisted)} clips are no training clips of this recipe (first: {unlisted[0]})")
    if (sheet.labels or sheet.contradictions) and not labels:
        raise UserError(f"{file} has no checked label that can be used: {'; '.join(notes)}; correct these rows")
    entries = (replace(e, checked=labels.get(e.name, e.checked)) if e.split == "train" else e for e in listing.entries)
    return replace(listing, entries=tuple(entries)), tuple(f"{file}: {n}; not used" for n in notes)


def draw_trusted_labels(labels: Ints, per_class: int, seed: int, forbidden: NDArray[np.bool_]) -> Ints:
    """Draw clips whose listed label counts as checked, for studies.

    Args:
        labels: ``(N,)`` true class indices, -1 where unknown: never drawn.
        per_class: how many of each class; a class with fewer gives all it has.
        seed: draws the clips.
        forbidden: ``(N,)`` whether a clip may not be drawn (its group has validation or test clips).

    Returns:
        ``(N,)`` class indices, -1 where a clip is not drawn.
    """
    rng, drawn = np.random.default_rng((seed, 40_970)), np.full(len(labels), -1, np.int64)
    for c in np.unique(labels[labels >= 0]):
        chosen = rng.permutation(np.flatnonzero((labels == c) & ~forbidden))[:per_class]
        drawn[chosen] = c
    return drawn


def describe_coverage(trusted_labels: Ints, classes: Sequence[str]) -> tuple[str, ...]:
    """A note if the checked labels ``(N,)`` name one class only, or not all classes; empty otherwise."""
    present = np.unique(trusted_labels[trusted_labels >= 0])
    missing = [name for i, name in enumerate(classes) if i not in present]
    if len(present) == 1:
        name = classes[present[0]]
        return (f"all checked clips are of class {name!r}: they tell nothing about other classes; check some of each",)
    if len(present) and missing:
        return (
            f"no clip of {len(missing)} of {len(classes)} classes was checked ({', '.join(missing[:10])}); check some "
            "of each class",
        )
    return ()
