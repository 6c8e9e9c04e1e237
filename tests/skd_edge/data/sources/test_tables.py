"""Tables of clips: CSV of every delimiter and encoding, Parquet, spans of time, votes in rows and in columns."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from skd_bench.errors import UserError
from skd_bench.listing.tables import read_rows
from skd_edge.data.sources.registry import SPLITS, list_clips
from skd_edge.data.sources.tables import parse_seconds
from skd_edge.recipe.data import TableData

RULES = {s: {"split": [s]} for s in SPLITS}
ROWS = "path,label,split\n" + "".join(
    f"{c}/{i}.mp4,{c},{s}\n" for c in "ab" for i, s in enumerate(["train"] * 3 + ["val", "test"])
)


def list_text(tmp_path: Path, text: str | bytes, name: str = "index.csv", **kw):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    data = TableData(kind="csv", root=tmp_path, file=Path(name), **(RULES | kw))
    return list_clips(data, seed=0, cache=tmp_path)


def table(tmp_path, text, **kw):
    (tmp_path / "index.csv").write_text(text, encoding="utf-8")
    return TableData(kind="csv", root=tmp_path, **(RULES | kw))


def listed(data, tmp_path):
    return list_clips(data, seed=0, cache=tmp_path / "cache")


def names(listing, split):
    return [e.name for e in listing.entries if e.split == split]


# ------------------------------------------------------------------------------------------ formats
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_delimiters_and_byte_order_marks(tmp_path, delimiter, encoding):
    listing = list_text(tmp_path, ROWS.replace(",", delimiter).encode(encoding))
    assert listing.classes == ("a", "b")
    assert len(listing.entries) == 10


def test_parquet_tables(tmp_path):
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
    (tmp_path / "index.parquet").write_bytes(b"PAR1, but not Parquet")
    with pytest.raises(UserError, match="cannot read"):
        list_clips(data, seed=0, cache=tmp_path)


def test_rows_are_streamed(tmp_path):
    """Memory does not grow with the rows that no split uses."""
    import tracemalloc

    with (tmp_path / "index.csv").open("w") as file:
        file.write(ROWS)
        file.writelines(f"x/{i}.mp4,a,unused\n" for i in range(30_000))
    data = TableData(kind="csv", root=tmp_path, **RULES)
    tracemalloc.start()
    assert len(list_clips(data, seed=0, cache=tmp_path).entries) == 10
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 19


def test_cells_are_in_the_requested_order(tmp_path):
    (tmp_path / "t.csv").write_text('b,a\n1,"x, ""y"""\n\n3,z\n')
    assert list(read_rows(tmp_path / "t.csv", ("a", "b"))) == [(2, ['x, "y"', "1"]), (4, ["z", "3"])]


# ------------------------------------------------------------------------------------------ spans of time
def test_spans(tmp_path):
    text = "path,label,split,s,e\n" + "".join(
        f"{s}.mp4,{c},{s},{i},{i + 0.5 if i else ''}\n"
        for s in RULES
        for i, c in ((0, "a"), (1, "b"), (2, "a"), (3, "b"))
    )
    listing = list_text(tmp_path, text, start="s", end="e")
    assert [e.name for e in listing.entries[:3]] == ["train.mp4", "train.mp4#t=1,1.5", "train.mp4#t=2,2.5"]
    assert Counter(e.group for e in listing.entries) == {"train.mp4": 4, "val.mp4": 4, "test.mp4": 4}
    with pytest.raises(UserError, match=r"ends at 1 s but begins at 3 s"):
        list_text(tmp_path, text + "train.mp4,a,train,3,1\n", start="s", end="e")


@pytest.mark.parametrize(
    ("cell", "value"), [("", None), (" 75.5 ", 75.5), ("1:15.5", 75.5), ("1:02:03", 3723.0), ("0", 0.0)]
)
def test_times(cell, value):
    assert parse_seconds(cell, "x") == value


@pytest.mark.parametrize("cell", ["-1", "nan", "inf", "1:2:3:4", "ten", "1:-2"])
def test_cells_that_are_not_times(cell):
    with pytest.raises(UserError, match="is not a time"):
        parse_seconds(cell, "f:3")


# ------------------------------------------------------------------------------------------ labels and splits
ACTOR_ROWS = "path,label,split,who\n" + "".join(
    f"{label} {i}.mp4,{label},{split},p{i % 3}\n"
    for label in ("a", "ü")
    for i, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test", "unused"])
)


def test_csv(tmp_path):
    listing = listed(table(tmp_path, "\ufeff" + ACTOR_ROWS, group="who"), tmp_path)
    assert listing.classes == ("a", "ü")
    assert Counter(e.split for e in listing.entries) == {"train": 8, "val": 4, "test": 2}
    assert {e.group for e in listing.entries} == {"p0", "p1", "p2"}
    first = listing.entries[0]
    assert (first.path, first.name) == (tmp_path / "a 0.mp4", "a 0.mp4")


@pytest.mark.parametrize(
    ("text", "kw", "words"),
    [
        (ACTOR_ROWS, {"group": "actor"}, "no column 'actor'; its columns are: path, label, split, who"),
        (ACTOR_ROWS, {"label": "class"}, "no column 'class'"),
        ("", {}, "no column"),
        (ACTOR_ROWS + ",a,train,p0\n", {}, r"index.csv:18: the 'path' of this row is empty"),
        (ACTOR_ROWS + "x.mp4\n", {}, r"index.csv:18: this row ends before its 'label'"),
        (ACTOR_ROWS + "x.mp4,,val,p0\n", {}, r"index.csv:18: the 'label' of this row is empty, and it is in val"),
        (ACTOR_ROWS + "x.mp4, ,test,p0\n", {}, r"index.csv:18: the 'label' of this row is empty, and it is in test"),
        (
            ACTOR_ROWS.replace("mp4,a,tr", "mp4,,tr").replace("mp4,ü,tr", "mp4,,tr"),
            {},
            "no training clip has a label: every l",
        ),
        (ACTOR_ROWS.replace("mp4,ü,train", "mp4,,train"), {}, r"one class only \(a\)"),
        (ACTOR_ROWS, {"votes": ["anna"]}, "no column 'anna'"),
        (ACTOR_ROWS, {"val": {"split": ["train", "val"]}}, "is in train and val; splits must not overlap"),
        (ACTOR_ROWS, {"test": {"split": ["tset"]}}, "data gives no test clips; check data.test"),
        (ACTOR_ROWS + "n.mp4,new,val,p0\n", {}, "class 'new' has val clips but no training clip"),
        (ACTOR_ROWS + "n.mp4,new,train,p0\nm.mp4,new,train,p0\n", {}, "class 'new' has no validation clip"),
        (ACTOR_ROWS + f'"{"x" * 200_000}",a,train,p0\n', {}, "field larger than field limit"),
    ],
)
def test_csv_that_is_wrong(tmp_path, text, kw, words):
    with pytest.raises(UserError, match=words):
        listed(table(tmp_path, text, **kw), tmp_path)


def test_csv_with_unlabelled_training_clips(tmp_path):
    text = ACTOR_ROWS + "u.mp4,,train,p0\nv.mp4,  ,train,p1\nw.mp4,,unused,p1\n"
    listing = listed(table(tmp_path, text), tmp_path)
    assert listing.classes == ("a", "ü")
    assert [e.name for e in listing.entries if not e.label] == ["u.mp4", "v.mp4"]


def test_csv_that_is_missing_or_not_text(tmp_path):
    data = table(tmp_path, ACTOR_ROWS)
    (tmp_path / "index.csv").write_bytes(b"path,label\n\xff\xfe,a\n")
    with pytest.raises(UserError, match=r"cannot read .*index\.csv"):
        listed(data, tmp_path)
    (tmp_path / "index.csv").unlink()
    with pytest.raises(UserError, match=r"index\.csv does not exist; check its name"):
        listed(data, tmp_path)


def test_human_motion_by_held_out_style(tmp_path, shared):
    root = shared("human_motion")
    with (root / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    others = sorted({r["style"] for r in rows} - {"elderly", "youthful"})
    data = TableData(
        kind="csv",
        root=root,
        train={"style": others, "split": ["train", "test"]},
        val={"style": others, "split": ["val"]},
        test={"style": ["elderly", "youthful"]},
    )
    listing = listed(data, tmp_path)
    style = {r["path"]: r["style"] for r in rows}
    by_split = {s: {style[n] for n in names(listing, s)} for s in SPLITS}
    assert by_split["test"] == {"elderly", "youthful"}
    assert by_split["train"] == by_split["val"] == set(others)
    assert len(others) == 5
    assert len(listing.classes) == 10
    counts = Counter(e.split for e in listing.entries)
    assert counts["test"] == sum(r["style"] in ("elderly", "youthful") for r in rows)
    assert sum(counts.values()) == len(rows) == len({e.path for e in listing.entries})


# ------------------------------------------------------------------------------------------ votes
def with_votes(train, **kw):
    """A table with two annotators' columns; ``train`` lines read path, Anna's vote, Ben's vote."""
    checked = "".join(f"{s}{i}.mp4,{c},x,x,{s}\n" for s in ("val", "test") for i, c in enumerate("ab"))
    return "path,label,anna,ben,split\n" + "".join(f"{line},train\n" for line in train) + checked


VOTE_ROWS = ["1,a,a,a", "2,b,a,", "3,,b, b ", "4,a,,b", "5,zzz,,"]


def test_csv_with_votes(tmp_path):
    listing = listed(table(tmp_path, with_votes(VOTE_ROWS), votes=["anna", "ben"]), tmp_path)
    assert listing.annotators == ("anna", "ben")
    assert listing.classes == ("a", "b")  # the label column of training rows is not read
    train = [e for e in listing.entries if e.split == "train"]
    assert [e.votes for e in train] == [("a", "a"), ("a", ""), ("b", "b"), ("", "b"), ("", "")]
    assert {e.label for e in train} == {""}
    assert {(e.label, e.votes) for e in listing.entries if e.split != "train"} == {("a", ()), ("b", ())}


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (["1,a,,", "2,b, ,"], "no training clip has a label: every vote in anna, ben abstains"),
        (["1,a,a,a", "2,b,a,"], r"one class only \(a\)"),
        ([*VOTE_ROWS, "6,,wlak,b", "7,,wlak,b"], "class 'wlak' has no validation clip"),
    ],
)
def test_votes_that_are_wrong(tmp_path, train, words):
    with pytest.raises(UserError, match=words):
        listed(table(tmp_path, with_votes(train), votes=["anna", "ben"]), tmp_path)


CHECKED_ROWS = "path,label,split,who\n" + "".join(f"{s}{c}.mp4,{c},{s},\n" for s in ("val", "test") for c in "ab")


def test_votes_in_rows(tmp_path):
    text = CHECKED_ROWS + "1,a,train,ben\n1,a,train,anna\n2,b,train,ben\n3,b,train,anna\n3,,train,ben\n4,a,train,ben\n"
    listing = list_text(tmp_path, text, annotator="who")
    assert listing.annotators == ("anna", "ben")
    votes = {e.name: e.votes for e in listing.entries if e.split == "train"}
    assert votes == {"1": ("a", "a"), "2": ("", "b"), "3": ("b", ""), "4": ("", "a")}
    with pytest.raises(UserError, match=r"index.csv:12: ben labels 1 as 'b' here and as 'a' in another row"):
        list_text(tmp_path, text + "1,b,train,ben\n", annotator="who")
    with pytest.raises(UserError, match="this label has no annotator"):
        list_text(tmp_path, text + "1,b,train,\n", annotator="who")
    with pytest.raises(UserError, match="name the column of the annotators"):
        list_text(tmp_path, text)
