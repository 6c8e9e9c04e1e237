"""Listings: groups stay in one split; repeated clips, misspelt classes and mismatched folders are reported."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.errors import UserError
from skd_edge.data.sources.listing import (
    ClipEntry,
    EntryCollector,
    check_validation_labels,
    hold_out,
    make_listing,
    read_lines,
)
from skd_edge.data.sources.registry import list_clips
from skd_edge.recipe.data import TableData

RULES = {s: {"split": [s]} for s in ("train", "val", "test")}
ROWS = "path,label,split\n" + "".join(
    f"{c}/{i}.mp4,{c},{s}\n" for c in "ab" for i, s in enumerate(["train"] * 3 + ["val", "test"])
)


def listed(tmp_path: Path, text: str | bytes, name: str = "index.csv", **kw):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    data = TableData(kind="csv", root=tmp_path, file=Path(name), **(RULES | kw))
    return list_clips(data, seed=0, cache=tmp_path)


# ------------------------------------------------------------------------------------------ groups
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 8)), min_size=6, max_size=60),
    st.booleans(),
    st.floats(0.05, 0.5),
    st.integers(0, 5),
)
def test_held_out_groups_are_whole_and_every_class_retains_training_clips(members, across, share, seed):
    entries = [
        ClipEntry(Path(f"{i}"), f"{i}", c, "train", f"{g}" if across else f"{c}{g}") for i, (c, g) in enumerate(members)
    ]
    entries_after = hold_out(entries, "val", share * len(entries), np.random.default_rng(seed))
    where = defaultdict(set)
    for e in entries_after:
        where[e.group].add(e.split)
    assert all(len(splits) == 1 for splits in where.values())
    assert {e.label for e in entries_after if e.split == "train"} == {e.label for e in entries}
    assert [replace(e, split="train") for e in entries_after] == entries


# ------------------------------------------------------------------------------------------ errors and notes


@pytest.mark.parametrize(
    ("extra", "kw", "words"),
    [
        (
            "a/0.mp4,b,train\n",
            {},
            r"index.csv:12: a/0.mp4 is listed again, in train as 'b'; .*index.csv:2 has it in train",
        ),
        ("a/0.mp4,a,test\n", {}, "listed again, in test as 'a'"),
        ("b/9.mp4,bb,train\nb/8.mp4,bb,train\n", {}, "class 'bb' has no validation clip"),
        ("c/1.mp4,walkin,val\nc/2.mp4,walking,train\nc/3.mp4,walking,train\n", {}, r"a misspelling of 'walking'\?"),
        ("a/9.mp4,a,train\n", {"start": "label"}, "'a' is not a time; write seconds"),
    ],
)
def test_tables_that_are_wrong(tmp_path, extra, kw, words):
    with pytest.raises(UserError, match=words):
        listed(tmp_path, ROWS + extra, **kw)


def test_repeated_rows_and_mismatched_folders_are_noted(tmp_path):
    listing = listed(tmp_path, ROWS + "a/0.mp4,a,train\nb/7.mp4,a,train\n")
    assert len(listing.entries) == 11
    assert "1 rows repeat a clip" in listing.note
    assert "1 clips are in a folder that is named like another class (first: b/7.mp4 is labelled 'a')" in listing.note
    assert listed(tmp_path, ROWS).note.count(";") == 2  # only the rules


def test_groups_in_several_splits_are_noted(tmp_path):
    text = "\n".join(f"{line},{'who' if not i else 'p1'}" for i, line in enumerate(ROWS.splitlines()))
    assert "1 groups have clips in several splits (first: p1)" in listed(tmp_path, text, group="who").note


def entry(name: str, **changes) -> ClipEntry:
    return replace(ClipEntry(Path(name), name, "a", "train", name), **changes)


def test_a_collector_counts_equal_entries_and_rejects_different_ones():
    collector = EntryCollector()
    assert collector.duplicate_note == ""
    for name in ("x", "y", "x", "x"):
        collector.add(entry(name), f"list:{name}")
    assert [e.name for e in collector.entries] == ["x", "y"]
    assert collector.duplicate_note == "2 rows repeat a clip and were left out"
    message = r"other:9: y is listed again, in train without a label; list:y has it in train as 'a': remove one \(why\)"
    with pytest.raises(UserError, match=message):
        collector.add(entry("y", label=""), "other:9", " (why)")


def test_lines_are_numbered_and_stripped(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf one \n\n\ttwo\r\n")
    assert list(read_lines(tmp_path / "a.txt")) == [(1, "one"), (3, "two")]
    with pytest.raises(UserError, match=r"does not exist; check data\.root"):
        list(read_lines(tmp_path / "b.txt"))
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="cannot read"):
        list(read_lines(tmp_path / "c.txt"))


def test_the_order_of_splits_and_classes():
    entries = [entry(s, split=s, label=c) for s, c in (("test", "b"), ("train", "b"), ("val", "a"))]
    listing = make_listing(entries, "one", "", "two")
    assert [e.split for e in listing.entries] == ["train", "val", "test"]
    assert listing.classes == ("a", "b")
    assert listing.note == "one; two"
    assert make_listing(entries, classes=("b", "a")).classes == ("b", "a")
    with pytest.raises(UserError, match=r"data gives no val clips; check data\.val"):
        make_listing(entries[:2])


def test_validation_labels_are_checked_without_training_labels():
    train = [entry("t", label="")]
    both = [entry(f"v{c}", split="val", label=c) for c in "ab"] + [entry("e", split="test")]
    check_validation_labels(make_listing(train + both))
    with pytest.raises(UserError, match="class 'b' has no validation clip"):
        check_validation_labels(make_listing(train + both[:1] + both[2:], classes=("a", "b")))
    with pytest.raises(UserError, match=r"the validation clips have one class only \(a\); at least two are needed"):
        check_validation_labels(make_listing(train + both[:1] + both[2:]))
