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


def test_folds_and_neighbours_respect_groups():
    groups = np.array([0, 0, 1, 2, 2, 2, 3, 4, 5])
    part = assign_folds(groups, 3)
    assert all(len(set(part[groups == g])) == 1 for g in groups)
    assert set(part) == {0, 1, 2}
    alone = np.random.default_rng((9, 3)).permutation(9) % 3
    assert np.array_equal(assign_folds(np.arange(9), 3), alone)  # as it always was

    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 6)).astype(np.float32)
    weak, q = rng.integers(0, 2, 40), np.full((40, 2), 0.5, np.float32)
    single = knn_class_probabilities(weak, q, features, groups=np.arange(40))
    assert np.array_equal(single, knn_class_probabilities(weak, q, features))
    # Twins of one group, both labelled wrong: alone they vouch for each other, as a group they do not.
    features[:20, 0] += 20
    features[20:, 0] -= 20
    weak = np.repeat([0, 1], 20)
    features[1] = features[0] + 1e-4
    weak[:2] = 1
    pairs = np.arange(40)
    pairs[1] = 0
    assert (
        knn_class_probabilities(weak, q, features, groups=pairs)[0, 0]
        > knn_class_probabilities(weak, q, features)[0, 0]
    )


def test_group_patterns():
    assert make_group_finder(None)("a/b.mp4") == "a/b.mp4"
    assert make_group_finder(r"_g(\d+)_")("x/v_x_g08_c01.avi") == "08"
    assert make_group_finder(r"g\d+")("x/v_g08.avi") == "g08"
    assert make_group_finder("zzz")("a.mp4") == "a.mp4"


# ------------------------------------------------------------------------------------------ balance




# ------------------------------------------------------------------------------------------ tables
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_delimiters_and_byte_order_marks(tmp_path, delimiter, encoding):
    listing = listed(tmp_path, ROWS.replace(",", delimiter).encode(encoding))
    assert listing.classes == ("a", "b")
    assert len(listing.entries) == 10


def test_parquet_is_a_table_too(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    cells = [line.split(",") for line in ROWS.splitlines()]
    columns = {name: [row[i] for row in cells[1:]] for i, name in enumerate(cells[0])}
    columns["label"][0] = None
    write_table(arrow.table(columns), tmp_path / "index.parquet", row_group_size=3)
    data = TableData(kind="csv", root=tmp_path, file=Path("index.parquet"), **RULES)
    listing = list_clips(data, seed=0, cache=tmp_path)
    assert [e.label for e in listing.entries if e.split == "train"] == ["", "a", "a", "b", "b", "b"]
    with pytest.raises(UserError, match="no column 'who'"):
        list_clips(data.model_copy(update={"group": "who"}), seed=0, cache=tmp_path)
    (tmp_path / "index.parquet").write_bytes(b"PAR1 no, it is not")
    with pytest.raises(UserError, match="cannot read"):
        list_clips(data, seed=0, cache=tmp_path)


def test_rows_are_streamed(tmp_path):
    """Many rows, of which the splits want ten, leave nothing behind."""
    import tracemalloc

    with (tmp_path / "index.csv").open("w") as file:
        file.write(ROWS)
        file.writelines(f"x/{i}.mp4,a,unused\n" for i in range(30_000))
    data = TableData(kind="csv", root=tmp_path, **RULES)
    tracemalloc.start()
    assert len(list_clips(data, seed=0, cache=tmp_path).entries) == 10
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.raise_interrupt()
    assert peak < 1 << 19


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


def test_spans(tmp_path):
    text = "path,label,split,s,e\n" + "".join(
        f"{s}.mp4,{c},{s},{i},{i + 0.5 if i else ''}\n"
        for s in RULES
        for i, c in ((0, "a"), (1, "b"), (2, "a"), (3, "b"))
    )
    listing = listed(tmp_path, text, start="s", end="e")
    assert [e.name for e in listing.entries[:3]] == ["train.mp4", "train.mp4#t=1,1.5", "train.mp4#t=2,2.5"]
    assert Counter(e.group for e in listing.entries) == {"train.mp4": 4, "val.mp4": 4, "test.mp4": 4}
    with pytest.raises(UserError, match=r"ends at 1 s and begins at 3 s"):
        listed(tmp_path, text + "train.mp4,a,train,3,1\n", start="s", end="e")


@pytest.mark.parametrize(
    ("cell", "value"), [("", None), (" 75.5 ", 75.5), ("1:15.5", 75.5), ("1:02:03", 3723.0), ("0", 0.0)]
)
def test_times(cell, value):
    assert parse_seconds(cell, "x") == value


@pytest.mark.parametrize("cell", ["-1", "nan", "inf", "1:2:3:4", "ten", "1:-2"])
def test_no_times(cell):
    with pytest.raises(UserError, match="is no time"):
        parse_seconds(cell, "f:3")


VOTES = "path,label,split,who\n" + "".join(f"{s}{c}.mp4,{c},{s},\n" for s in ("val", "test") for c in "ab")


def test_votes_in_rows(tmp_path):
    text = VOTES + "1,a,train,ben\n1,a,train,anna\n2,b,train,ben\n3,b,train,anna\n3,,train,ben\n4,a,train,ben\n"
    listing = listed(tmp_path, text, annotator="who")
    assert listing.annotators == ("anna", "ben")
    votes = {e.name: e.votes for e in listing.entries if e.split == "train"}
    assert votes == {"1": ("a", "a"), "2": ("", "b"), "3": ("b", ""), "4": ("", "a")}
    with pytest.raises(UserError, match=r"index.csv:12: ben calls 1 'b', and 'a' in another row"):
        listed(tmp_path, text + "1,b,train,ben\n", annotator="who")
    with pytest.raises(UserError, match="nobody is named"):
        listed(tmp_path, text + "1,b,train,\n", annotator="who")
    with pytest.raises(UserError, match="name the column of annotators"):
        listed(tmp_path, text)


def test_rows_of_any_column_order(tmp_path):
    (tmp_path / "t.csv").write_text('b,a\n1,"x, ""y"""\n\n3,z\n')
    assert list(read_rows(tmp_path / "t.csv", ("a", "b"))) == [(2, ['x, "y"', "1"]), (4, ["z", "3"])]


# ------------------------------------------------------------------------------------------ official splits
def test_ucf_lists_that_disagree_are_refused(tmp_path):
    (tmp_path / "classInd.txt").write_text("1 A\n2 B\n")
    (tmp_path / "trainlist01.txt").write_text("A/v_A_g01_c01.avi 2\n")
    data = OfficialData(kind="ucf101", root=tmp_path, splits=Path("."))
    with pytest.raises(UserError, match=r"trainlist01.txt:1: A is number 2 here, 1 in .*classInd.txt"):
        list_clips(data, seed=0, cache=tmp_path)


@pytest.mark.parametrize("kind", ["ucf101", "hmdb51"])
def test_official_splits_that_are_missing(tmp_path, kind):
    with pytest.raises(UserError, match=r"does not exist|holds no clips of split 2"):
        list_clips(OfficialData(kind=kind, root=tmp_path, splits=Path("."), split=2), seed=0, cache=tmp_path)


def test_lists_that_repeat_a_clip_in_another_split(tmp_path):
    for name, text in (("t", "a.mp4 x\nb.mp4 y\n"), ("v", "a.mp4 x\n"), ("e", "c.mp4 x\n")):
        (tmp_path / name).write_text(text)
    data = ListData(kind="list", root=tmp_path, train=Path("t"), val=Path("v"), test=Path("e"))
    with pytest.raises(UserError, match=r"a\.mp4 is listed again, in val"):
        list_clips(data, seed=0, cache=tmp_path)


# ------------------------------------------------------------------------------------------ shards
def test_shards_that_are_wrong(tmp_path):
    wds = pytest.importorskip("webdataset")

    def written(name, *samples):
        with wds.TarWriter(str(tmp_path / name)) as shard:
            for i, sample in enumerate(samples):
                shard.write({"__key__": f"s{i}", **sample})

    data = ShardData(kind="webdataset", root=tmp_path, train="t.tar", val="v.tar", test="t.tar", label="json.what")
    with pytest.raises(UserError, match=r"t\.tar does not exist"):
        list_clips(data, seed=0, cache=tmp_path)
    written("t.tar", {"mp4": b"x", "json": b'{"what": "a"}'}, {"json": b"{}"})
    with pytest.raises(UserError, match=r"sample s1 has no video \(only: json\)"):
        list_clips(data, seed=0, cache=tmp_path)
    written("t.tar", {"mp4": b"x", "json": b'{"what": "a"}'}, {"mp4": b"x", "json": b"[broken"})
    with pytest.raises(UserError, match="its 'json' cannot be read"):
        list_clips(data, seed=0, cache=tmp_path)
    written("t.tar", {"mp4": b"x", "json": b'{"what": "a"}'}, {"mp4": b"x"})
    written("v.tar", {"mp4": b"x"})
    with pytest.raises(UserError, match=r"has no 'json\.what', and it is in val"):
        list_clips(data, seed=0, cache=tmp_path)
    (tmp_path / "t.tar").write_bytes(b"\x1f\x8b no tar")
    with pytest.raises(UserError, match="shards are plain, whole tar files"):
        list_clips(data, seed=0, cache=tmp_path)


def test_shards_are_what_webdataset_reads(tmp_path):
    wds = pytest.importorskip("webdataset")
    for split, labels in (("t", "aabb"), ("v", "ab"), ("e", "ab")):
        with wds.TarWriter(str(tmp_path / f"{split}.tar")) as shard:
            for i, label in enumerate(labels):
                shard.write({"__key__": f"dir/{split}{i}", "mp4": f"{split}{i}".encode() * 99, "cls": label})
    data = ShardData(kind="webdataset", root=tmp_path, train="t.tar", val="v.tar", test="e.tar", group=r"/(\w)")
    entries = list_clips(data, seed=0, cache=tmp_path).entries
    read = list(wds.WebDataset([str(tmp_path / f"{s}.tar") for s in "tve"], shardshuffle=False, empty_check=False))
    assert [(e.name.partition("/")[2].removesuffix(".mp4"), e.label) for e in entries] == [
        (sample["__key__"], sample["cls"].decode()) for sample in read
    ]
    for entry, sample in zip(entries, read, strict=True):
        raw = entry.path.read_bytes()
        assert raw[entry.span.offset :][: entry.span.size] == sample["mp4"]
