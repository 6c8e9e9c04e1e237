"""Each kind of source becomes one list of clips; what is wrong with it is said in one message with a way out."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from skd_bench.errors import UserError
from skd_edge.data.sources.registry import SPLITS, list_clips
from skd_edge.recipe.data import FolderData, GeneratedData, ListData, TableData


def names(listing, split):
    return [e.name for e in listing.entries if e.split == split]


def touch(root: Path, **classes: int) -> Path:
    """Files that look like videos: listing opens none."""
    for label, count in classes.items():
        for i in range(count):
            (root / label).mkdir(parents=True, exist_ok=True)
            (root / label / f"{label} {i}.mp4").write_bytes(b"x")
    root.mkdir(exist_ok=True)
    return root


def listed(data, tmp_path, seed=0):
    return list_clips(data, seed=seed, cache=tmp_path / "cache")


# ------------------------------------------------------------------------------------------ folders
def test_folder_splits_by_class_and_by_seed(tmp_path):
    root = touch(tmp_path / "mes vidéos", a=20, b=40, çà=10)
    (root / "a" / "notes.txt").write_text("not a video")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.mp4").write_bytes(b"x")
    data = FolderData(kind="folder", root=root, val=0.2, test=0.1)
    one = listed(data, tmp_path)
    assert one.classes == ("a", "b", "çà")
    assert Counter(e.split for e in one.entries) == {"train": 49, "val": 14, "test": 7}
    assert Counter(e.label for e in one.entries if e.split == "val") == {"a": 4, "b": 8, "çà": 2}
    assert len({e.name for e in one.entries}) == 70
    assert "a/notes.txt" not in {e.name for e in one.entries}
    assert [e.split for e in one.entries] == sorted((e.split for e in one.entries), key=SPLITS.index)
    assert listed(data, tmp_path) == one
    assert names(listed(data, tmp_path, seed=1), "val") != names(one, "val")
    assert "trusted only if" in one.note


def test_folder_with_its_own_trusted_splits(tmp_path):
    data = FolderData(
        kind="folder",
        root=touch(tmp_path / "t", a=3, b=3),
        val_root=touch(tmp_path / "v", a=1, b=2),
        test_root=touch(tmp_path / "e", a=2, b=1),
    )
    listing = listed(data, tmp_path)
    assert Counter(e.split for e in listing.entries) == {"train": 6, "val": 3, "test": 3}
    assert all(e.path.is_relative_to(tmp_path / "v") for e in listing.entries if e.split == "val")


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ({}, "holds no videos"),
        ({"a": 5}, "one class only"),
        ({"a": 9, "lonely": 1}, "'lonely' has"),
    ],
)
def test_folder_that_cannot_be_learned_from(tmp_path, classes, words):
    root = touch(tmp_path / "root", **classes)
    with pytest.raises(UserError, match=words):
        listed(FolderData(kind="folder", root=root, val=0.3, test=0.2), tmp_path)


def test_folder_that_is_missing_or_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    for root in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(UserError, match=f"{root} is not a folder"):
            listed(FolderData(kind="folder", root=root), tmp_path)


# ------------------------------------------------------------------------------------------ CSV
def table(tmp_path, text, **kw):
    (tmp_path / "index.csv").write_text(text, encoding="utf-8")
    rules = {"train": {"split": ["train"]}, "val": {"split": ["val"]}, "test": {"split": ["test"]}} | kw
    return TableData(kind="csv", root=tmp_path, **rules)


ROWS = "path,label,split,who\n" + "".join(
    f"{label} {i}.mp4,{label},{split},p{i % 3}\n"
    for label in ("a", "ü")
    for i, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test", "unused"])
)


def test_csv(tmp_path):
    listing = listed(table(tmp_path, "\ufeff" + ROWS, group="who"), tmp_path)
    assert listing.classes == ("a", "ü")
    assert Counter(e.split for e in listing.entries) == {"train": 8, "val": 4, "test": 2}
    assert {e.group for e in listing.entries} == {"p0", "p1", "p2"}
    first = listing.entries[0]
    assert (first.path, first.name) == (tmp_path / "a 0.mp4", "a 0.mp4")


@pytest.mark.parametrize(
    ("text", "kw", "words"),
    [
        (ROWS, {"group": "actor"}, "no column 'actor'; its columns are: path, label, split, who"),
        (ROWS, {"label": "class"}, "no column 'class'"),
        ("", {}, "no column"),
        (ROWS + ",a,train,p0\n", {}, r"index.csv:18: the 'path' of this row is empty"),
        (ROWS + "x.mp4\n", {}, r"index.csv:18: this row ends before its 'label'"),
        (ROWS + "x.mp4,,val,p0\n", {}, r"index.csv:18: the 'label' of this row is empty, and it is in val"),
        (ROWS + "x.mp4, ,test,p0\n", {}, r"index.csv:18: the 'label' of this row is empty, and it is in test"),
        (
            ROWS.replace("mp4,a,tr", "mp4,,tr").replace("mp4,ü,tr", "mp4,,tr"),
            {},
            "no training clip has a label: every l",
        ),
        (ROWS.replace("mp4,ü,train", "mp4,,train"), {}, r"one class only \(a\)"),
        (ROWS, {"votes": ["anna"]}, "no column 'anna'"),
        (ROWS, {"val": {"split": ["train", "val"]}}, "is in train and val; splits must not overlap"),
        (ROWS, {"test": {"split": ["tset"]}}, "gives no test clips; check the rules of data.test"),
        (ROWS + "n.mp4,new,val,p0\n", {}, "class 'new' has val clips and no training clip"),
        (ROWS + "n.mp4,new,train,p0\nm.mp4,new,train,p0\n", {}, "class 'new' has no trusted validation clip"),
        (ROWS + f'"{"x" * 200_000}",a,train,p0\n', {}, "field larger than field limit"),
    ],
)
def test_csv_that_is_wrong(tmp_path, text, kw, words):
    with pytest.raises(UserError, match=words):
        listed(table(tmp_path, text, **kw), tmp_path)


def test_csv_with_unlabelled_training_clips(tmp_path):
    text = ROWS + "u.mp4,,train,p0\nv.mp4,  ,train,p1\nw.mp4,,unused,p1\n"
    listing = listed(table(tmp_path, text), tmp_path)
    assert listing.classes == ("a", "ü")
    assert [e.name for e in listing.entries if not e.label] == ["u.mp4", "v.mp4"]


def voted(train, **kw):
    """A table with two annotators' columns; ``train`` lines read path, Anna's vote, Ben's vote."""
    trusted = "".join(f"{s}{i}.mp4,{c},x,x,{s}\n" for s in ("val", "test") for i, c in enumerate("ab"))
    return "path,label,anna,ben,split\n" + "".join(f"{line},train\n" for line in train) + trusted


VOTES = ["1,a,a,a", "2,b,a,", "3,,b, b ", "4,a,,b", "5,zzz,,"]


def test_csv_with_votes(tmp_path):
    listing = listed(table(tmp_path, voted(VOTES), votes=["anna", "ben"]), tmp_path)
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
        ([*VOTES, "6,,wlak,b", "7,,wlak,b"], "class 'wlak' has no trusted validation clip"),
    ],
)
def test_votes_that_are_wrong(tmp_path, train, words):
    with pytest.raises(UserError, match=words):
        listed(table(tmp_path, voted(train), votes=["anna", "ben"]), tmp_path)


def test_csv_that_is_missing_or_no_text(tmp_path):
    data = table(tmp_path, ROWS)
    (tmp_path / "index.csv").write_bytes(b"path,label\n\xff\xfe,a\n")
    with pytest.raises(UserError, match=r"cannot read .*index\.csv"):
        listed(data, tmp_path)
    (tmp_path / "index.csv").unlink()
    with pytest.raises(UserError, match=r"index\.csv does not exist; check data\.root"):
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


# ------------------------------------------------------------------------------------------ lists
def lists(root, train, val="a 1.mp4 0\nb.mp4 1\n", test="c.mp4 0\n", classes="walk\nrun ü\n"):
    for name, text in (("train", train), ("val", val), ("test", test), ("classes", classes)):
        (root / f"{name}.txt").write_text(text, encoding="utf-8")
    files = {name: Path(f"{name}.txt") for name in SPLITS}
    return ListData(kind="list", root=root, classes=Path("classes.txt") if classes else None, **files)


GOOD = "x 1.mp4 0\nx 2.mp4 0\n\ny/ü.mp4 1\ny/2.mp4 1\n"


def test_list_with_numbers(tmp_path):
    listing = listed(lists(tmp_path, GOOD), tmp_path)
    assert listing.classes == ("walk", "run ü")
    assert [(e.name, e.label) for e in listing.entries if e.split == "train"] == [
        ("x 1.mp4", "walk"),
        ("x 2.mp4", "walk"),
        ("y/ü.mp4", "run ü"),
        ("y/2.mp4", "run ü"),
    ]


def test_list_with_names(tmp_path):
    data = lists(tmp_path, GOOD.replace(" 0\n", " w\n").replace(" 1\n", " r\n"), "a w\nb r\n", "c w\n", classes="")
    assert listed(data, tmp_path).classes == ("r", "w")


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (GOOD + "z.mp4 2\n", r"train.txt:6: label 2, but .*classes.txt names 2 classes"),
        (GOOD + "z.mp4 jump\n", r"train.txt:6: class 'jump' is not in .*classes.txt"),
        ("alone.mp4\n" + GOOD, r"train.txt:1: a line reads 'path label', not 'alone.mp4'"),
        ("", "gives no train clips"),
    ],
)
def test_list_that_is_wrong(tmp_path, train, words):
    with pytest.raises(UserError, match=words):
        listed(lists(tmp_path, train), tmp_path)


# ------------------------------------------------------------------------------------------ the generated set
def test_generated(tmp_path):
    data = GeneratedData(kind="generated", train=20, val=10, test=10, frames=4, size=16)
    listing = listed(data, tmp_path)
    assert Counter(e.split for e in listing.entries) == {"train": 20, "val": 10, "test": 10}
    assert all(e.path.is_file() for e in listing.entries)
    assert len(listing.classes) == 10
