"""The common form of every kind of data: a checked list of clips, with splits that keep groups together."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from skd_bench.errors import UserError
from skd_bench.files import open_regular_text, sha256_file
from skd_bench.video.types import WHOLE_FILE, ClipSpan

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class ClipEntry:
    """One listed clip.

    Attributes:
        path: the file.
        name: its path relative to the data's root, which identifies the clip everywhere; a span of time adds
            ``#t=1,2`` (seconds).
        label: class name; empty if the clip is unlabelled (training clips only).
        split: the split that the clip belongs to.
        group: name of the clip's group (a source video, an actor); the clips of a group stay in one split.
        votes: one class name for each annotator, empty for an abstention; () without annotators.
        span: the part of the file that is the clip.
        checked: class name that a person checked; empty if nobody did (training clips only).
    """

    path: Path
    name: str
    label: str
    split: Split
    group: str
    votes: tuple[str, ...] = ()
    span: ClipSpan = WHOLE_FILE
    checked: str = ""


@dataclass(frozen=True)
class ClipListing:
    """Every clip of a recipe.

    Attributes:
        classes: class names, sorted, or in the order of the user's class file.
        entries: the clips, ordered by split.
        note: remarks for the report, such as repeated rows.
        annotators: names of the annotators, in the order of each training entry's ``votes``.
        trusted_notes: remarks on checked clips (``data.trusted``) that cannot be used.
    """

    classes: tuple[str, ...]
    entries: tuple[ClipEntry, ...]
    note: str
    annotators: tuple[str, ...] = ()
    trusted_notes: tuple[str, ...] = ()


@dataclass
class EntryCollector:
    """Collects entries as they are read, each clip once.

    An identical second entry is left out and counted. A second entry with another split or label is an error.

    Attributes:
        entries: the clips, in the order of their first entry.
        duplicate_count: number of identical entries that were left out.
    """

    entries: list[ClipEntry] = field(default_factory=list)
    duplicate_count: int = 0
    _first_seen: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, entry: ClipEntry, at: str, hint: str = "") -> None:
        """Add a clip.

        Args:
            entry: the clip.
            at: where it is listed (``file:line``), for error messages.
            hint: advice that is added to the error message.

        Raises:
            UserError: The clip is already listed in another split or with another label.
        """
        index, before = self._first_seen.setdefault(entry.name, (len(self.entries), at))
        if index == len(self.entries):
            self.entries.append(entry)
            return
        other = self.entries[index]
        if entry != other:
            here, there = _format_split_and_label(entry), _format_split_and_label(other)
            raise UserError(f"{at}: {entry.name} is listed again, {here}; {before} has it {there}: remove one{hint}")
        self.duplicate_count += 1

    @property
    def duplicate_note(self) -> str:
        """The remark on repeated rows; empty if there are none."""
        return f"{self.duplicate_count} rows repeat a clip and were left out" if self.duplicate_count else ""


def _format_split_and_label(entry: ClipEntry) -> str:
    return f"in {entry.split} " + (f"as {entry.label!r}" if entry.label else "without a label")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Read a text file line by line, without empty lines.

    Yields:
        Line number (from 1) and the line without white space at its ends.

    Raises:
        UserError: The file does not exist, or is not UTF-8 text.
    """
    try:
        with open_regular_text(path, "utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line := line.strip():
                    yield number, line
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check data.root and the file name in the recipe") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def find_file_copies(files: Iterable[Path], originals: Iterable[Path]) -> set[Path]:
    """The files that have the same bytes as one of ``originals``. Only files of equal size are read.

    Raises:
        UserError: Such a file cannot be read.
    """
    by_size: dict[int, list[Path]] = {}
    for original in originals:
        if original.is_file():
            by_size.setdefault(original.stat().st_size, []).append(original)
    alike = {file: same for file in files if file.is_file() and (same := by_size.get(file.stat().st_size))}
    digests = {original: sha256_file(original) for same in alike.values() for original in same}
    return {file for file, same in alike.items() if sha256_file(file) in {digests[original] for original in same}}


def hold_out(entries: list[ClipEntry], split: Split, count: float, rng: np.random.Generator) -> list[ClipEntry]:
    """Move about ``count`` training clips into ``split``: the same share of every class, whole groups only.

    Every class keeps at least one training clip.

    Args:
        entries: all clips.
        split: where the drawn clips are moved.
        count: how many clips to move in all.
        rng: draws the groups.

    Returns:
        The same clips in the same order, some with another split.
    """
    train = [i for i, e in enumerate(entries) if e.split == "train"]
    groups: dict[str, list[int]] = {}
    for i in train:
        groups.setdefault(entries[i].group, []).append(i)
    by_class: dict[str, dict[str, int]] = {}
    for i in train:
        mine = by_class.setdefault(entries[i].label, {})
        mine[entries[i].group] = mine.get(entries[i].group, 0) + 1
    left = Counter(entries[i].label for i in train)
    sizes, moved = dict(left), set[int]()
    for label, mine in by_class.items():
        take = min(round(count * sizes[label] / len(train)), sizes[label] - 1) - (sizes[label] - left[label])
        names = list(mine)
        shuffled = [names[n] for n in rng.permutation(len(names))]
        # If every group is larger than the wanted number of clips, the smallest group is moved.
        free_sizes = [n for name, n in mine.items() if moved.isdisjoint(groups[name])]
        enough = max(take, min(free_sizes, default=0)) if take > 0 else 0
        for name in shuffled:
            gone = Counter(entries[i].label for i in groups[name])
            free = moved.isdisjoint(groups[name]) and all(left[c] > n for c, n in gone.items())
            if free and mine[name] <= enough:
                moved.update(groups[name])
                left -= gone
                enough -= mine[name]
    return [replace(e, split=split) if i in moved else e for i, e in enumerate(entries)]


def make_listing(
    entries: Iterable[ClipEntry],
    *notes: str,
    classes: tuple[str, ...] | None = None,
    annotators: tuple[str, ...] = (),
    note_folder_mismatches: bool = True,
) -> ClipListing:
    """Make a listing of the entries, ordered by split.

    Args:
        entries: the clips, in any order.
        notes: remarks on the splits for the report; empty ones are left out.
        classes: the order of the classes, if the user gives one; default: the classes of the entries, sorted.
        annotators: names of the annotators whose votes the training entries carry.
        note_folder_mismatches: whether the listing's note mentions clips in a folder that is named like another class.

    Raises:
        UserError: A split has no clips.
    """
    entries = tuple(sorted(entries, key=lambda e: SPLITS.index(e.split)))  # so that the store can slice each split
    classes = classes or tuple(sorted({name for e in entries for name in _collect_named_classes(e)}))
    for split in SPLITS:
        if not any(e.split == split for e in entries):
            raise UserError(f"data gives no {split} clips; check data.{split} in the recipe")
    all_notes = [
        *notes,
        _describe_folder_mismatches(entries, set(classes)) if note_folder_mismatches else "",
        _describe_split_groups(entries),
    ]
    return ClipListing(classes, entries, "; ".join(filter(None, all_notes)), annotators)


def check_validation_labels(listing: ClipListing) -> None:
    """Check that every class has a validation clip; training labels are not checked, they may come later.

    Raises:
        UserError: A class has no validation clip, or all validation clips are of one class.
    """
    validated_classes = dict.fromkeys(e.label for e in listing.entries if e.split == "val")
    if poor := [c for c in listing.classes if c not in validated_classes]:
        raise UserError(
            f"class {poor[0]!r} has no validation clip{suggest_class(poor[0], validated_classes)}; add clips, or "
            "leave the class out of the data"
        )
    if len(validated_classes) < 2:
        raise UserError(
            f"the validation clips have one class only ({', '.join(validated_classes)}); at least two are needed"
        )


def check_classes(listing: ClipListing) -> None:
    """Check that a listing can be trained on.

    Every class needs two training clips with a label or a vote, and a validation clip.

    Raises:
        UserError: No training clip has a label, all have the same class, or a class lacks training or validation clips.
    """
    entries, classes, annotators = listing.entries, listing.classes, listing.annotators
    train = Counter(name for e in entries if e.split == "train" for name in _collect_named_classes(e))
    if not train:
        what = f"every vote in {', '.join(annotators)} abstains" if annotators else "every label is empty"
        raise UserError(
            f"no training clip has a label: {what}; label some clips of each class (data.label, data.votes), or label "
            "them with rules or models (labels.rules, labels.models)"
        )
    if len(train) < 2:
        raise UserError(f"the training clips have one class only ({', '.join(train)}); at least two are needed")
    validation_counts = Counter(e.label for e in entries if e.split == "val")
    no_votes = f": none of {', '.join(annotators)} votes for it" if annotators else ""
    for split in ("val", "test"):
        if unknown := sorted({e.label for e in entries if e.split == split} - set(train)):
            suggestion = suggest_class(unknown[0], train)
            raise UserError(
                f"class {unknown[0]!r} has {split} clips but no training clip{no_votes}{suggestion}; classes of the "
                f"training clips: {', '.join(train)}"
            )
    if poor := [c for c in classes if train[c] == 1 or validation_counts[c] == 0]:
        what = "only one training clip" if train[poor[0]] == 1 else "no validation clip"
        suggestion = suggest_class(poor[0], [c for c in train if c != poor[0]])
        raise UserError(f"class {poor[0]!r} has {what}{suggestion}; add clips, or leave the class out of the data")


def _collect_named_classes(entry: ClipEntry) -> set[str]:
    """The classes that the label, the votes and the checked label of a clip name."""
    return {entry.label, *entry.votes, entry.checked} - {""}


def suggest_class(word: str, known: Iterable[str]) -> str:
    """A question in brackets for an error message, if a known class is spelt almost like ``word``; else empty."""
    close = difflib.get_close_matches(word, list(known), 1, 0.75)
    return f" (a misspelling of {close[0]!r}?)" if close else ""


def _describe_folder_mismatches(entries: tuple[ClipEntry, ...], classes: set[str]) -> str:
    """The remark on clips in a folder that is named like a class other than their label; empty without any."""
    count, first = 0, ""
    for entry in entries:
        folder = entry.name.rpartition("/")[0].rpartition("/")[2]
        if folder in classes and entry.label not in ("", folder):
            count, first = count + 1, first or f"{entry.name} is labelled {entry.label!r}"
    return f"{count} clips are in a folder that is named like another class (first: {first})" if count else ""


def _describe_split_groups(entries: tuple[ClipEntry, ...]) -> str:
    """The remark on groups that the recipe's rules put into several splits; empty without any."""
    where: dict[str, str] = {}
    torn = {e.group for e in entries if e.group != e.name and where.setdefault(e.group, e.split) != e.split}
    return f"{len(torn)} groups have clips in several splits (first: {min(torn)})" if torn else ""
