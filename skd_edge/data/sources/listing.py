"""What every kind of source becomes: a list of entries, checked once, with splits that respect groups."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from skd_bench.errors import UserError
from skd_bench.video.types import WHOLE_FILE, ClipSpan

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
VIDEO_SUFFIXES = frozenset(
    (".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp")
)


@dataclass(frozen=True, slots=True)
class ClipEntry:
    """One listed clip.

    Attributes:
        path: the file.
        name: its path relative to the data's root, which identifies it everywhere; of a span of time with ``#t=1,2``.
        label: class name; empty where the clip is unlabelled (training only).
        split: the set that it belongs to.
        group: clips of one group stay together (a source video, an actor).
        votes: one class name for each annotator, empty for an abstention; () where there are no votes.
        span: which part of the file the clip is.
    """

    path: Path
    name: str
    label: str
    split: Split
    group: str
    votes: tuple[str, ...] = ()
    span: ClipSpan = WHOLE_FILE


@dataclass(frozen=True)
class ClipListing:
    """Every clip of a recipe, classes sorted by name (or in the order that the user's class file gives).

    ``annotators`` names whose votes the entries of the training split carry, in this order.
    """

    classes: tuple[str, ...]
    entries: tuple[ClipEntry, ...]
    note: str
    annotators: tuple[str, ...] = ()


@dataclass
class EntryCollector:
    """Entries as they are read, each clip once: said twice alike is left out and counted, said differently refused."""

    entries: list[ClipEntry] = field(default_factory=list)
    duplicate_count: int = 0
    _first_seen: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, entry: ClipEntry, at: str, hint: str = "") -> None:
        """One more clip, found ``at`` a place (a file and its line).

        Raises:
            UserError: The clip is listed already, in another split or as another class.
        """
        index, before = self._first_seen.setdefault(entry.name, (len(self.entries), at))
        if index == len(self.entries):
            self.entries.append(entry)
            return
        other = self.entries[index]
        if entry != other:
            raise UserError(
                f"{at}: {entry.name} is listed again, {_format_split_and_label(entry)}; {before} has it {_format_split_and_label(other)}: leave one of "
                f"them out{hint}"
            )
        self.duplicate_count += 1

    @property
    def duplicate_note(self) -> str:
        """What to tell of repeated rows; empty where there are none."""
        return f"{self.duplicate_count} rows repeat a clip and were left out" if self.duplicate_count else ""


def _format_split_and_label(entry: ClipEntry) -> str:
    return f"in {entry.split} " + (f"as {entry.label!r}" if entry.label else "without a label")


def make_group_finder(pattern: str | None) -> Callable[[str], str]:
    """From a clip's name to its group: what the pattern finds in it; the name itself without one, or where nothing is.

    Args:
        pattern: a regular expression; its first group counts where it has one.
    """
    if pattern is None:
        return lambda name: name
    find = re.compile(pattern).search

    def find_group(name: str) -> str:
        found = find(name)
        return name if found is None else (found[1] if found.re.groups else found[0]) or name

    return find_group


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not empty, blanks at its ends taken off; the file is read as it is needed.

    Raises:
        UserError: The file is missing or no text.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line := line.strip():
                    yield number, line
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check data.root and the file's name in the recipe") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def resolve_class_name(label: str, names: list[str], at: str, file: Path | None) -> str:
    """The class that a label means: itself, or, where the classes have a file, the name at that index.

    Raises:
        UserError: No such class is in the file.
    """
    if names and label.isdecimal():
        if int(label) >= len(names):
            raise UserError(f"{at}: label {label}, but {file} names {len(names)} classes (numbers start at 0)")
        return names[int(label)]
    if names and label not in names:
        raise UserError(f"{at}: class {label!r} is not in {file}{_suggest_class(label, names)}")
    return label


def hold_out(entries: list[ClipEntry], split: Split, count: float, rng: np.random.Generator) -> list[ClipEntry]:
    """Move about ``count`` training clips into ``split``: the same share of every class, whole groups only.

    Never a class's last training clip, nor the group that holds it.
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
        # Where every group is larger than what is wanted, the smallest is taken.
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
    """The entries as one listing, in the order of the splits.

    Args:
        entries: in any order.
        notes: about the splits, for the report; empty ones are left out.
        classes: their order, where the user gives it.
        annotators: who voted.
        note_folder_mismatches: whether clips that lie in a folder called like another class are told of.

    Raises:
        UserError: A split is missing; says which and the way out.
    """
    entries = tuple(sorted(entries, key=lambda e: SPLITS.index(e.split)))  # a split stands together in the store
    classes = classes or tuple(sorted({name for e in entries for name in _collect_named_classes(e)}))
    for split in SPLITS:
        if not any(e.split == split for e in entries):
            raise UserError(f"the recipe's data gives no {split} clips; check the rules of data.{split}")
    all_notes = [
        *notes,
        _describe_folder_mismatches(entries, set(classes)) if note_folder_mismatches else "",
        _describe_split_groups(entries),
    ]
    return ClipListing(classes, entries, "; ".join(filter(None, all_notes)), annotators)


def check_validation_labels(listing: ClipListing) -> None:
    """Every class has a clip that validates it, whatever is still to be said of the training clips.

    Raises:
        UserError: It has not, or there is one class only.
    """
    validated_classes = dict.fromkeys(e.label for e in listing.entries if e.split == "val")
    if poor := [c for c in listing.classes if c not in validated_classes]:
        raise UserError(
            f"class {poor[0]!r} has no trusted validation clip{_suggest_class(poor[0], validated_classes)}; add clips, or leave the "
            "class out of the data"
        )
    if len(validated_classes) < 2:
        raise UserError(
            f"the validation clips have one class only ({', '.join(validated_classes)}); two or more are needed"
        )


def check_classes(listing: ClipListing) -> None:
    """Something can be learned from a listing: labels or votes on training clips of every class, and trusted clips.

    Raises:
        UserError: It cannot; says why and the way out.
    """
    entries, classes, annotators = listing.entries, listing.classes, listing.annotators
    train = Counter(name for e in entries if e.split == "train" for name in _collect_named_classes(e))
    if not train:
        what = f"every vote in {', '.join(annotators)} abstains" if annotators else "every label is empty"
        raise UserError(
            f"no training clip has a label: {what}; label some clips of each class (data.label, data.votes), or let "
            "rules or models speak for them (labels.rules, labels.models)"
        )
    if len(train) < 2:
        raise UserError(f"the training clips have one class only ({', '.join(train)}); a classifier needs two or more")
    validation_counts = Counter(e.label for e in entries if e.split == "val")
    nobody = f": none of {', '.join(annotators)} votes for it" if annotators else ""
    for split in ("val", "test"):
        if unknown := sorted({e.label for e in entries if e.split == split} - set(train)):
            raise UserError(
                f"class {unknown[0]!r} has {split} clips and no training clip{nobody}{_suggest_class(unknown[0], train)}; "
                f"classes: {', '.join(train)}"
            )
    if poor := [c for c in classes if train[c] == 1 or validation_counts[c] == 0]:
        what = "one training clip" if train[poor[0]] == 1 else "no trusted validation clip"
        suggestion = _suggest_class(poor[0], [c for c in train if c != poor[0]])
        raise UserError(f"class {poor[0]!r} has {what}{suggestion}; add clips, or leave the class out of the data")


def _collect_named_classes(entry: ClipEntry) -> set[str]:
    """The classes that somebody names for a clip."""
    return {entry.label, *entry.votes} - {""}


def _suggest_class(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), 1, 0.75)
    return f" (is it {close[0]!r}, misspelt?)" if close else ""


def _describe_folder_mismatches(entries: tuple[ClipEntry, ...], classes: set[str]) -> str:
    """Clips whose folder has the name of a class that is not theirs: a label file that disagrees with its folders."""
    count, first = 0, ""
    for entry in entries:
        folder = entry.name.rpartition("/")[0].rpartition("/")[2]
        if folder in classes and entry.label not in ("", folder):
            count, first = count + 1, first or f"{entry.name} is called {entry.label!r}"
    return f"{count} clips lie in the folder of another class than their label says (first: {first})" if count else ""


def _describe_split_groups(entries: tuple[ClipEntry, ...]) -> str:
    """Groups that the recipe's own rules put into several splits."""
    where: dict[str, str] = {}
    split_groups = {e.group for e in entries if e.group != e.name and where.setdefault(e.group, e.split) != e.split}
    return (
        f"{len(split_groups)} groups have clips in several splits (first: {min(split_groups)})" if split_groups else ""
    )
