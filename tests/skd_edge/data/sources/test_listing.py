"""Groups stay together; what is listed twice, misspelt or in a strange folder is said; tables of every form."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.errors import UserError
from skd_edge.data.sampling import draw_balanced_rows
from skd_edge.data.sources.listing import ClipEntry, hold_out, make_group_finder
from skd_edge.data.sources.registry import list_clips
from skd_edge.data.sources.tables import parse_seconds, read_rows
from skd_edge.distill.trainer import assign_folds
from skd_edge.labels.cleaning.knn_posterior import knn_class_probabilities
from skd_edge.recipe.data import ListData, OfficialData, ShardData, TableData

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
def test_held_out_groups_are_whole_and_no_class_is_emptied(members, across, share, seed):
    entries = [
        ClipEntry(Path(f"{i}"), f"{i}", c, "train", f"{g}" if across else f"{c}{g}") for i, (c, g) in enumerate(members)
    ]
    held = hold_out(entries, "val", share * len(entries), np.random.default_rng(seed))
    where = defaultdict(set)
    for e in held:
        where[e.group].add(e.split)
    assert all(len(splits) == 1 for splits in where.values())
    assert {e.label for e in held if e.split == "train"} == {e.label for e in entries}
    assert [replace(e, split="train") for e in held] == entries




def test_group_patterns():
    assert make_group_finder(None)("a/b.mp4") == "a/b.mp4"
    assert make_group_finder(r"_g(\d+)_")("x/v_x_g08_c01.avi") == "08"
    assert make_group_finder(r"g\d+")("x/v_g08.avi") == "g08"
    assert make_group_finder("zzz")("a.mp4") == "a.mp4"


# ------------------------------------------------------------------------------------------ balance




# ------------------------------------------------------------------------------------------ tables






@pytest.mark.parametrize(
    ("extra", "kw", "words"),
    [
        (
            "a/0.mp4,b,train\n",
            {},
            r"index.csv:12: a/0.mp4 is listed again, in train as 'b'; .*index.csv:2 has it in train",
        ),
        ("a/0.mp4,a,test\n", {}, "listed again, in test as 'a'"),
        ("b/9.mp4,bb,train\nb/8.mp4,bb,train\n", {}, "class 'bb' has no trusted validation clip"),
        ("c/1.mp4,walkin,val\nc/2.mp4,walking,train\nc/3.mp4,walking,train\n", {}, r"is it 'walking', misspelt\?"),
        ("a/9.mp4,a,train\n", {"start": "label"}, "'a' is no time; write seconds"),
    ],
)
def test_tables_that_are_wrong(tmp_path, extra, kw, words):
    with pytest.raises(UserError, match=words):
        listed(tmp_path, ROWS + extra, **kw)


def test_what_is_repeated_or_in_a_strange_folder_is_told(tmp_path):
    listing = listed(tmp_path, ROWS + "a/0.mp4,a,train\nb/7.mp4,a,train\n")
    assert len(listing.entries) == 11
    assert "1 rows repeat a clip" in listing.note
    assert (
        "1 clips lie in the folder of another class than their label says (first: b/7.mp4 is called 'a')"
        in listing.note
    )
    assert listed(tmp_path, ROWS).note.count(";") == 2  # the rules alone


def test_torn_groups_are_told(tmp_path):
    text = "\n".join(f"{line},{'who' if not i else 'p1'}" for i, line in enumerate(ROWS.splitlines()))
    assert "1 groups have clips in several splits (first: p1)" in listed(tmp_path, text, group="who").note














# ------------------------------------------------------------------------------------------ official splits






# ------------------------------------------------------------------------------------------ shards


