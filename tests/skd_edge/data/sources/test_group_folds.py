"""Folds for cross-validation: a partition into whole groups, whose classes can be trained, validated and tested."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.data.sources.group_folds import FoldError, assign_folds, choose_validation_groups, make_group_folds
from skd_edge.data.sources.listing import ClipEntry, ClipListing
from skd_edge.recipe.cross_validation import CrossValidation


def entry(name: str, label: str, group: str, split: str = "train", **more: object) -> ClipEntry:
    return ClipEntry(Path(name), name, label, split, group, **more)


def listing(*entries: ClipEntry) -> ClipListing:
    return ClipListing(tuple(sorted({e.label for e in entries} - {""})), entries, "a note")


def people(count: int, classes: str = "ab", clips: int = 2, split: str = "train") -> list[ClipEntry]:
    """So many people, each with so many clips of each class."""
    return [
        entry(f"{split}-p{person}-{label}{i}", label, f"{split}-p{person}", split)
        for person in range(count)
        for label in classes
        for i in range(clips)
    ]


clips = st.lists(st.tuples(st.integers(0, 11), st.sampled_from("abc")), min_size=2, max_size=60)


@settings(max_examples=80)
@given(clips, st.integers(2, 6), st.integers(0, 2**31 - 1))
def test_folds_are_a_partition_into_whole_groups(rows, folds, seed):
    groups, labels = [f"g{group}" for group, _ in rows], [label for _, label in rows]
    if len(set(groups)) < folds:
        return
    found = assign_folds(groups, labels, folds, seed)
    assert len(found) == len(rows)
    assert set(found) == set(range(1, folds + 1))  # none is empty
    fold_of = dict(zip(groups, found, strict=True))
    assert [fold_of[group] for group in groups] == found
    assert assign_folds(groups, labels, folds, seed) == found


@settings(max_examples=60)
@given(st.integers(3, 12), st.integers(2, 5), st.integers(0, 1000), st.integers(0, 3))
def test_each_fold_has_every_class_in_training_and_validation_if_each_group_has(count, folds, seed, extra):
    """And the splits of a fold share no group, leave out no clip, and do not depend on the order of the listing."""
    entries = people(count)
    entries += [entry(f"rare{i}", "rare", f"train-p{i}") for i in range(3)]  # a class in three groups
    entries += [entry(f"more{i}", "a", "train-p0") for i in range(extra)]  # a larger group
    if count < max(folds, 4):  # three groups in two folds leave one
        return
    made = make_group_folds(listing(*entries), CrossValidation(folds=folds), seed)
    tested: Counter[str] = Counter()
    for fold in range(1, folds + 1):
        found = made.make_listing(fold)
        assert [e.name for e in found.entries] == [e.name for e in entries]
        splits = defaultdict(set)
        for e in found.entries:
            splits[e.group].add(e.split)
        assert all(len(each) == 1 for each in splits.values())
        tested.update(e.name for e in found.entries if e.split == "test")
        classes = {split: {e.label for e in found.entries if e.split == split} for split in ("train", "val")}
        expected = {"a", "b", "rare"} if folds > 2 else {"a", "b"}  # in two folds, one tests two of the three groups
        assert classes["train"] >= expected
        assert classes["val"] >= expected
    assert tested == Counter(e.name for e in entries)
    backwards = make_group_folds(listing(*reversed(entries)), CrossValidation(folds=folds), seed)
    assert backwards.fold_by_group == made.fold_by_group


def test_folds_have_similar_classes():
    """One class in ten is rare: two clips in each of five groups of twenty; each of five folds gets one such group."""
    entries = people(20, "a", clips=9)
    entries += [entry(f"rare{i}-{j}", "rare", f"train-p{4 * i}") for i in range(5) for j in range(2)]
    made = make_group_folds(listing(*entries), CrossValidation(folds=5), 0)
    folds = [made.fold_by_group[f"train-p{4 * i}"] for i in range(5)]
    assert sorted(folds) == [1, 2, 3, 4, 5]
    assert set(Counter(made.fold_by_group.values()).values()) == {4}


def test_about_a_share_of_the_other_groups_validates():
    made = make_group_folds(listing(*people(20)), CrossValidation(folds=5, val=0.25), 0)
    counts = Counter(e.split for e in made.make_listing(2).entries)
    assert counts == {"train": 48, "val": 16, "test": 16}


def test_validation_leaves_each_class_for_training():
    groups, labels = ["big", "big", "big", "small", "small", "third"], ["a", "b", "b", "a", "b", "a"]
    chosen = choose_validation_groups(groups, labels, 0.3, 0)
    assert chosen == {"small"}
    assert choose_validation_groups(["one", "one"], ["a", "b"], 0.5, 0) == set()  # nothing would be left


def test_checked_clips_alone_are_tested_and_weak_ones_of_their_groups_are_left_out():
    weak = [*people(4, split="train"), entry("weak", "a", "test-p0"), entry("unlabelled", "", "test-p1")]
    entries = [*weak, *people(2, split="val"), *people(4, split="test")]
    made = make_group_folds(listing(*entries), CrossValidation(folds=3, score="checked"), 0)
    assert len(made.tested) == 24
    for fold in (1, 2, 3):
        found = made.make_listing(fold).entries
        assert {e.name for e in found if e.split == "train"} == {e.name for e in people(4, split="train")}
        assert sum(e.split == "val" for e in found) == 16
        assert sum(e.split == "test" for e in found) == 8


def test_unlabelled_clips_train_unless_their_group_is_held_out():
    entries = [*people(6), *(entry(f"u{i}", "", f"train-p{i}") for i in range(6)), entry("alone", "", "alone")]
    made = make_group_folds(listing(*entries), CrossValidation(folds=3), 0)
    found = made.make_listing(1).entries
    held_out = {e.group for e in found if e.split != "train"}
    assert {e.name for e in found if not e.label} == {
        "alone",
        *(f"u{i}" for i in range(6) if f"train-p{i}" not in held_out),
    }


def test_clips_of_one_name_in_folders_of_their_own_stay_two():
    entries = [*people(3), *(entry(f"train-p0-a{i}", "a", f"other{i}", "val") for i in range(2))]
    made = make_group_folds(listing(*entries), CrossValidation(folds=3), 0)
    assert {"train/train-p0-a0", "val/train-p0-a0"} <= {e.name for e in made.tested}
    assert len({e.name for e in made.tested}) == len(entries)


@pytest.mark.parametrize(
    ("entries", "given", "setting", "message"),
    [
        (
            people(2),
            {"folds": 3},
            "folds",
            r"2 groups \(train-p0, train-p1\) cannot be divided into 3 folds; give at most 2",
        ),
        (people(3), {"folds": 2}, "folds", "3 groups in 2 folds leave a single group for .*; give 3 folds$"),
        (
            [*people(4), entry("x", "rare", "train-p3")],
            {"folds": 2},
            "group",
            r"class 'rare' is in 1 group only \(train-p3\), and 3 are needed: for test, validation and training",
        ),
        (
            [*people(4, split="test"), entry("x", "rare", "test-p3", "test")],
            {"folds": 2, "score": "checked"},
            "group",
            "class 'rare' is in 1 group only .*, and 2 are needed: for test, validation; add",
        ),
        ([*people(3), entry("x", "a", "")], {"folds": 2}, "group", r"1 clips have no group \(first: x\)"),
        (
            [entry(n, "a", n) for n in ("x", "y")],
            {"folds": 2, "group": "p[0-9]"},
            "group",
            r"'p\[0-9\]' occurs in no clip's name \(such as 'x'\)",
        ),
        (people(4), {"folds": 2, "score": "checked"}, "folds", "0 groups .* cannot be divided"),
    ],
)
def test_clips_that_cannot_be_divided_are_refused(entries, given, setting, message):
    with pytest.raises(FoldError, match=message) as error:
        make_group_folds(listing(*entries), CrossValidation.model_validate(given), 0)
    assert error.value.setting == f"cross_validation.{setting}"
    assert error.value.exit_code == 2


def test_a_fold_without_training_clips_is_refused():
    entries = [*people(3, split="test"), entry("weak", "a", "test-p0")]
    made = make_group_folds(listing(*entries), CrossValidation(folds=3, score="checked"), 0)
    with pytest.raises(FoldError, match=r"cross_validation.score: fold 1 has no training clip: every training clip"):
        made.make_listing(1)
