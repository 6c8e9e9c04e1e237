"""Folds for cross-validation: whole groups, of similar size and classes (scikit-learn's StratifiedGroupKFold).

Which clips are tested, and by which fold, depends on names, labels and groups of the clips and on the seed, not on the
order in which the clips are listed.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skd_bench.errors import UsageError
from skd_edge.data.sources.listing import ClipEntry, ClipListing
from skd_edge.recipe.cross_validation import CrossValidation

_DRAWS = 20  # seeds that are tried, until every class can be trained and validated in every fold
_SETTING = "cross_validation"


class FoldError(UsageError):
    """The clips cannot be divided into these folds.

    Attributes:
        setting: dotted path of the setting that is wrong.
    """

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(f"{setting}: {message}")
        self.setting = setting


@dataclass(frozen=True)
class GroupFolds:
    """The clips of a cross-validation.

    Attributes:
        listing: all clips, in the order of the recipe's own splits; each clip has another name.
        fold_by_group: for each group with a clip that is tested, its fold, from 1.
        settings: the recipe's section, with the group of the data where it names none.
        seed: seed of the folds.
    """

    listing: ClipListing
    fold_by_group: Mapping[str, int]
    settings: CrossValidation
    seed: int

    @property
    def tested(self) -> list[ClipEntry]:
        """The clips that are tested, each in one fold, with their labels."""
        return [e for e in self.listing.entries if _is_tested(e, self.settings)]

    def make_listing(self, fold: int) -> ClipListing:
        """The clips of one fold: no group is in two splits, and the order of the clips is that of all folds.

        A clip that cannot be tested (it has no label, or it is a weak one) is left out where its group is held out.

        Args:
            fold: from 1.

        Raises:
            FoldError: No training clip is left.
        """
        tested = self.tested
        test = {group for group, number in self.fold_by_group.items() if number == fold}
        validation = set(self.fold_by_group) - test
        if self.settings.score == "all":
            others = [e for e in tested if e.group not in test]
            validation = choose_validation_groups(
                [e.group for e in others], [e.label for e in others], self.settings.val, self.seed
            )
        known = {e.name for e in tested}
        entries = []
        for entry in self.listing.entries:
            if entry.name in known and entry.group in test:
                entries.append(replace(entry, split="test", votes=()))
            elif entry.name in known and entry.group in validation:
                entries.append(replace(entry, split="val", votes=()))
            elif entry.group not in test and entry.group not in validation:
                entries.append(replace(entry, split="train"))
        if not any(e.split == "train" for e in entries):
            raise FoldError(
                f"{_SETTING}.score",
                f"fold {fold} has no training clip: every training clip is of a group that has checked clips; set "
                "score to all if the labels of the training clips are right, or check clips of other groups",
            )
        where: dict[str, str] = {}
        assert all(where.setdefault(e.group, e.split) == e.split for e in entries)
        note = f"fold {fold} of {self.settings.folds}, by group ({len(test)} groups are tested)"
        return replace(self.listing, entries=tuple(entries), note="; ".join(filter(None, (note, self.listing.note))))


def make_group_folds(listing: ClipListing, settings: CrossValidation, seed: int) -> GroupFolds:
    """Assign the clips of all splits to folds.

    Args:
        listing: the clips with the recipe's own splits.
        settings: number of folds, which clips are tested, and what belongs together.
        seed: draws among equally good folds.

    Raises:
        FoldError: No clip can be tested, clips have no group, there are too few groups for these folds, or a class is
            in too few groups.
    """
    listing = replace(listing, entries=_make_names_unique(listing.entries))
    tested = [e for e in listing.entries if _is_tested(e, settings)]
    if nameless := [e.name for e in tested if not e.group]:
        raise FoldError(
            f"{_SETTING}.group",
            f"{len(nameless)} clips have no group (first: {nameless[0]}); fill in their cells of that column",
        )
    groups = {e.group for e in tested}
    if settings.group is not None and len(tested) > 1 and all(e.group == e.name for e in tested):
        raise FoldError(
            f"{_SETTING}.group",
            f"{settings.group!r} occurs in no clip's name (such as {tested[0].name!r}), so that no two clips belong "
            "together; correct the pattern",
        )
    if len(groups) < settings.folds:
        raise FoldError(
            f"{_SETTING}.folds",
            f"{len(groups)} groups ({', '.join(sorted(groups)[:5])}{', ...' if len(groups) > 5 else ''}) cannot be "
            f"divided into {settings.folds} folds; give at most {max(len(groups), 1)}, or smaller groups",
        )
    if settings.score == "all" and len(groups) - -(-len(groups) // settings.folds) < 2:
        raise FoldError(
            f"{_SETTING}.folds",
            f"{len(groups)} groups in {settings.folds} folds leave a single group for validation and training; give "
            f"{len(groups)} folds" + ("" if len(groups) > 2 else ", and three groups at least"),
        )
    # A fold tests some groups; a class needs one more for validation and, if these clips are trained on, one more.
    needed = 3 if settings.score == "all" else 2
    groups_by_class: dict[str, set[str]] = defaultdict(set)
    for entry in tested:
        groups_by_class[entry.label].add(entry.group)
    if poor := sorted((len(mine), name) for name, mine in groups_by_class.items() if len(mine) < needed):
        count, name = poor[0]
        only = ", ".join(sorted(groups_by_class[name]))
        raise FoldError(
            f"{_SETTING}.group",
            f"class {name!r} is in {count} group{'s' if count > 1 else ''} only ({only}), and {needed} are needed: for "
            f"test, validation{' and training' if needed == 3 else ''}; add clips of it, or leave the class out",
        )
    ordered = sorted(tested, key=lambda e: e.name)
    numbers = assign_folds(
        [e.group for e in ordered], [e.label for e in ordered], settings.folds, seed, left_over=needed - 1
    )
    return GroupFolds(listing, dict(zip((e.group for e in ordered), numbers, strict=True)), settings, seed)


def assign_folds(
    groups: Sequence[str], labels: Sequence[str], folds: int, seed: int, *, left_over: int = 1
) -> list[int]:
    """Divide clips into folds of whole groups, with similar numbers of clips of each class.

    Args:
        groups: the group of each of N clips; at least ``folds`` different ones.
        labels: the class of each clip.
        folds: number of folds.
        seed: draws among equally good folds.
        left_over: number of groups of each class that should remain outside of every fold, if it has enough.

    Returns:
        The fold of each clip, from 1; no fold is empty.
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    number: dict[str, int] = {}
    codes = np.array([number.setdefault(group, len(number)) for group in groups])
    best, fewest = np.zeros(len(groups), np.int64), len(groups) * folds + 1
    for draw in range(_DRAWS):
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=(seed + draw * 7919) % 2**32)
        found = _number_folds(splitter, codes, labels)
        missing = _count_missing_classes(codes, labels, found, folds, left_over)
        if missing < fewest:
            best, fewest = found, missing
        if not fewest:
            break
    if len(np.unique(best)) < folds or not best.all():
        best = _number_folds(GroupKFold(folds), codes, labels)  # by number of clips alone
    return [int(fold) for fold in best]


def _number_folds(splitter: Any, codes: NDArray[np.int64], labels: Sequence[str]) -> NDArray[np.int64]:
    """The fold of each clip, from 1, as a splitter of scikit-learn divides them; 0 where it refuses these clips."""
    found = np.zeros(len(codes), np.int64)
    with warnings.catch_warnings(), suppress(ValueError):  # no class has as many clips as there are folds
        warnings.simplefilter("ignore", UserWarning)  # a class has fewer
        for fold, (_, rows) in enumerate(splitter.split(codes, np.asarray(labels), codes), 1):
            found[rows] = fold
    return found


def _count_missing_classes(
    codes: NDArray[np.int64], labels: Sequence[str], found: NDArray[np.int64], folds: int, left_over: int
) -> int:
    """How many groups of classes are missing outside of the folds, over all folds; and all clips for an empty fold."""
    pairs = {(label, int(code), int(fold)) for label, code, fold in zip(labels, codes, found, strict=True)}
    total = Counter(label for label, _, _ in pairs)
    inside = Counter((label, fold) for label, _, fold in pairs)
    missing = sum(max(min(left_over, total[label] - 1) - (total[label] - n), 0) for (label, _), n in inside.items())
    return missing + len(codes) * sum(fold not in found for fold in range(1, folds + 1))


def choose_validation_groups(groups: Sequence[str], labels: Sequence[str], share: float, seed: int) -> set[str]:
    """Choose groups with about a share of the clips of every class; each class also keeps clips, as far as possible.

    Args:
        groups: the group of each of N clips.
        labels: the class of each clip.
        share: in (0, 1).
        seed: draws among equally good groups.
    """
    names, classes = sorted(set(groups)), sorted(set(labels))
    row, column = ({name: i for i, name in enumerate(all_)} for all_ in (names, classes))
    counts = np.zeros((len(names), len(classes)), np.int64)
    for group, label in zip(groups, labels, strict=True):
        counts[row[group], column[label]] += 1
    total = counts.sum(axis=0)
    order = np.random.default_rng(seed).permutation(len(names)).tolist()
    chosen, taken = list[int](), np.zeros(len(classes), np.int64)

    def measure_distance(after: NDArray[np.int64]) -> float:
        return float((((after - share * total) / total) ** 2).sum())

    while True:
        free = [g for g in order if g not in chosen and not ((counts[g] > 0) & (taken + counts[g] >= total)).any()]
        if uncovered := ((taken == 0) & (total > 0)).any():
            needy = [g for g in free if (counts[g][taken == 0] > 0).any()]
            free, uncovered = needy or free, bool(needy)
        if not free:
            break
        best = min(free, key=lambda g: measure_distance(taken + counts[g]))
        if not uncovered and measure_distance(taken + counts[best]) >= measure_distance(taken):
            break
        chosen.append(best)
        taken = taken + counts[best]
    return {names[g] for g in chosen}


def _is_tested(entry: ClipEntry, settings: CrossValidation) -> bool:
    return bool(entry.label) and (settings.score == "all" or entry.split != "train")


def _make_names_unique(entries: Sequence[ClipEntry]) -> tuple[ClipEntry, ...]:
    """Folders of their own for the splits may hold files of the same name: these get the split's name in front."""
    count = Counter(e.name for e in entries)
    return tuple(
        replace(e, name=f"{e.split}/{e.name}", group=f"{e.split}/{e.name}" if e.group == e.name else e.group)
        if count[e.name] > 1
        else e
        for e in entries
    )
