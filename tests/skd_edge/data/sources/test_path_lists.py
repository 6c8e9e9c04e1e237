"""Lists as other tools write them: paths with labels, folders of frames, Windows' separator, several labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.errors import UserError
from skd_edge.data.sources.path_lists import ListRow, parse_list_row
from skd_edge.data.sources.registry import SPLITS, list_clips
from skd_edge.recipe.data import ListData


def listed(root, row, **more):
    """Lists of two classes: in each split, two clips of a class; ``row`` formats class folder, number and index."""
    numbers = {"train": (1, 2), "val": (3,), "test": (4,)}
    for split, which in numbers.items():
        lines = [row.format(c=c, i=i, n=n) for i in which for n, c in enumerate("ab")]
        (root / f"{split}.txt").write_text("\n".join(lines))
    (root / "classes.txt").write_text("a\nb\n")
    files = {split: Path(f"{split}.txt") for split in SPLITS}
    return list_clips(
        ListData(kind="list", root=root, classes=Path("classes.txt"), **files, **more), seed=0, cache=root
    )


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1).map(lambda t: f"{t}/a b.mp4"),
    st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1),
)
def test_every_path_and_label_come_back(path, label):
    assert parse_list_row(f"{path} {label}", "f:1") == ListRow(path, label)
    assert parse_list_row(f"{path}\t{label} 2", "f:1") == ListRow(path, f"{label} 2")
    assert parse_list_row(f"{path[:-4]} 16 {label}", "f:1") == ListRow(path[:-4], label, 16)


@given(st.text())
def test_a_line_is_read_or_refused_with_its_place(line):
    line = line.strip()
    try:
        row = parse_list_row(line, "f:7")
    except UserError as error:
        assert str(error).startswith("f:7: ")  # noqa: PT017
    else:
        assert row.path
        assert row.label == line[-len(row.label) :]


@pytest.mark.parametrize("line", ["a/1.mp4 0 1", "a/1.MTS x y z", "a/my clip.mp4 3 4"])
def test_several_labels_are_named_as_what_they_are(line):
    with pytest.raises(UserError, match=r"f:1: this row gives the clip \d labels .*a clip has one class"):
        parse_list_row(line, "f:1")


def test_folders_of_frames(tmp_path):
    for c in "ab":
        for i in (1, 2, 3, 4):
            (tmp_path / c / f"{i}").mkdir(parents=True)
            for number in range(3):
                (tmp_path / c / f"{i}" / f"img_{number:05}.jpg").touch()
    listing = listed(tmp_path, "{c}/{i} 3 {n}")
    assert [(e.name, e.label) for e in listing.entries if e.split == "val"] == [("a/3", "a"), ("b/3", "b")]
    assert "another number" not in listing.note
    (tmp_path / "a/1/img_00009.jpg").touch()
    assert "1 folders hold another number of pictures" in listed(tmp_path, "{c}/{i} 3 {n}").note


def folders_of_frames(root, name="{c}/{i}", count=3):
    for c in "ab":
        for i in (1, 2, 3, 4):
            folder = root / name.format(c=c, i=i)
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"img_{number:05}.jpg").touch()


@pytest.mark.parametrize("separator", [" ", "\t"])
def test_folders_of_frames_with_several_labels_or_an_offset(tmp_path, separator):
    folders_of_frames(tmp_path)
    with pytest.raises(UserError, match=r"train.txt:1: this row gives the clip 3 labels \(1, 3, 5\)"):
        listed(tmp_path, separator.join(["{c}/{i}", "3", "1", "3", "5"]))
    with pytest.raises(UserError, match=r"2 labels \(3, 0\), or an offset \(2\), which cannot be used; a clip has one"):
        listed(tmp_path, separator.join(["{c}/{i}", "2", "3", "{n}"]))
    listing = listed(tmp_path, separator.join(["{c}/{i}", "0", "3", "{n}"]))  # mmaction2's with_offset
    assert [(e.name, e.label) for e in listing.entries if e.split == "val"] == [("a/3", "a"), ("b/3", "b")]
    assert "another number" not in listing.note


def test_indices_between_commas_are_several_labels(tmp_path):
    with pytest.raises(UserError, match=r"train.txt:1: this row gives the clip 2 labels \(1, 3\)"):
        listed(tmp_path, "{c}/{i}.mp4 1,3")


@pytest.mark.parametrize("separator", [" ", "\t"])
def test_a_number_with_zeros_in_front_stays_a_part_of_the_path(tmp_path, separator):
    folders_of_frames(tmp_path, f"{{c}}{separator}0{{i}}")
    listing = listed(tmp_path, separator.join(["{c}", "0{i}", "{n}"]))
    assert [e.name for e in listing.entries if e.split == "val"] == [f"a{separator}03", f"b{separator}03"]
    assert "another number" not in listing.note


def test_windows_and_cameras(tmp_path):
    for c in "ab":
        for i in (1, 2, 3, 4):
            (tmp_path / c).mkdir(exist_ok=True)
            (tmp_path / c / f"{i}.AVI").touch()
    listing = listed(tmp_path, "{c}\\{i}.AVI {n}")
    assert [e.name for e in listing.entries if e.split == "test"] == ["a/4.AVI", "b/4.AVI"]
    assert all(e.path.is_file() for e in listing.entries)


def test_a_path_that_ends_in_a_number(tmp_path):
    """Where a file of the whole name exists, its number belongs to the path."""
    for c in "ab":
        for i in (1, 2, 3, 4):
            (tmp_path / f"{c} {i}").touch()
    assert [e.name for e in listed(tmp_path, "{c} {i} {n}").entries if e.split == "val"] == ["a 3", "b 3"]


def test_digits_as_names(tmp_path):
    rows = {"train.txt": "1 1\n2 1\n3 0\n4 0\n", "val.txt": "5 1\n6 0\n", "test.txt": "7 1\n8 0\n", "c.txt": "1\n0\n"}
    for name, text in rows.items():
        (tmp_path / name).write_text(text)
    files = {split: Path(f"{split}.txt") for split in SPLITS}
    data = ListData(kind="list", root=tmp_path, classes=Path("c.txt"), **files)
    with pytest.raises(UserError, match=r"set data\.labels_are to names or to indices"):
        list_clips(data, seed=0, cache=tmp_path)
    listing = list_clips(data.model_copy(update={"labels_are": "names"}), seed=0, cache=tmp_path)
    assert [e.label for e in listing.entries if e.split == "train"] == ["1", "1", "0", "0"]
    assert listing.classes == ("1", "0")


# ------------------------------------------------------------------------------------------ path and label
def list_data(data, tmp_path):
    return list_clips(data, seed=0, cache=tmp_path / "cache")


def lists(root, train, val="a 1.mp4 0\nb.mp4 1\n", test="c.mp4 0\n", classes="walk\nrun ü\n"):
    for name, text in (("train", train), ("val", val), ("test", test), ("classes", classes)):
        (root / f"{name}.txt").write_text(text, encoding="utf-8")
    files = {name: Path(f"{name}.txt") for name in SPLITS}
    return ListData(kind="list", root=root, classes=Path("classes.txt") if classes else None, **files)


GOOD = "x 1.mp4 0\nx 2.mp4 0\n\ny/ü.mp4 1\ny/2.mp4 1\n"


def test_list_with_numbers(tmp_path):
    listing = list_data(lists(tmp_path, GOOD), tmp_path)
    assert listing.classes == ("walk", "run ü")
    assert [(e.name, e.label) for e in listing.entries if e.split == "train"] == [
        ("x 1.mp4", "walk"),
        ("x 2.mp4", "walk"),
        ("y/ü.mp4", "run ü"),
        ("y/2.mp4", "run ü"),
    ]


def test_list_with_names(tmp_path):
    data = lists(tmp_path, GOOD.replace(" 0\n", " w\n").replace(" 1\n", " r\n"), "a w\nb r\n", "c w\n", classes="")
    assert list_data(data, tmp_path).classes == ("r", "w")


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (GOOD + "z.mp4 2\n", r"train.txt:6: label 2, but .*classes.txt names 2 classes"),
        (GOOD + "z.mp4 jump\n", r"train.txt:6: class 'jump' is not in .*classes.txt"),
        ("alone.mp4\n" + GOOD, r"train.txt:1: the line must have the form 'path label'; it is 'alone.mp4'"),
        ("", "gives no train clips"),
    ],
)
def test_list_that_is_wrong(tmp_path, train, words):
    with pytest.raises(UserError, match=words):
        list_data(lists(tmp_path, train), tmp_path)


def test_lists_that_repeat_a_clip_in_another_split(tmp_path):
    for name, text in (("t", "a.mp4 x\nb.mp4 y\n"), ("v", "a.mp4 x\n"), ("e", "c.mp4 x\n")):
        (tmp_path / name).write_text(text)
    data = ListData(kind="list", root=tmp_path, train=Path("t"), val=Path("v"), test=Path("e"))
    with pytest.raises(UserError, match=r"a\.mp4 is listed again, in val"):
        list_clips(data, seed=0, cache=tmp_path)
