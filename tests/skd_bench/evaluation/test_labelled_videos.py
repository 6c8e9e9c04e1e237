"""Labelled videos come from folders or a CSV file."""

import csv

import pytest

from skd_bench.errors import UserError
from skd_bench.evaluation.labelled_videos import load_labelled_videos
from skd_bench.listing.folder_walk import LeftOut


def test_labels_come_from_folders_or_a_table(tmp_path, clips):
    found = load_labelled_videos(clips, ["bright", "dark"])
    assert [v.label for v in found] == [0] + [1] * 4
    assert len({v.group for v in found}) == 5
    with (tmp_path / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "group"), ("clips/dark/20.mp4", "dark", "g"), ("x", "dark", "")])
    first, second = load_labelled_videos(tmp_path / "index.csv", ["bright", "dark"])
    assert (first.label, first.group, first.path) == (1, "g", tmp_path / "clips/dark/20.mp4")
    assert second.group == "x"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path\na.mp4\n", "has no column 'label'; its columns are: path"),
        ("path,label\na.mp4,\n", r"index\.csv:2: path or label is missing"),
        ("", "has no column"),
        ("path,label\n", "no labelled videos"),
        ("path,label\na.mp4,cat\n", "unknown label 'cat'"),
    ],
)
def test_a_table_without_usable_rows_is_refused(tmp_path, text, words):
    table = tmp_path / "index.csv"
    table.write_text(text)
    with pytest.raises(UserError, match=words):
        load_labelled_videos(table, ["dark"])


def test_only_videos_of_a_folder_are_listed_in_a_stable_order(tmp_path):
    for name in ("b/2.MP4", "b/deep/1.mkv", "b/notes.txt", "a/3.webm", "loose.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = load_labelled_videos(tmp_path, ["b", "a"])
    assert [(v.path.relative_to(tmp_path).as_posix(), v.label) for v in found] == [
        ("a/3.webm", 1),
        ("b/2.MP4", 0),
        ("b/deep/1.mkv", 0),
    ]


@pytest.mark.parametrize(("content", "words"), [(b"path,label\n\xff", "it is not UTF-8"), (None, "does not exist")])
def test_a_table_that_cannot_be_read_is_refused(tmp_path, content, words):
    if content is not None:
        (tmp_path / "index.csv").write_bytes(content)
    with pytest.raises(UserError, match=words):
        load_labelled_videos(tmp_path / "index.csv", ["a"])


def test_the_same_walk_and_the_same_tables_as_training(tmp_path):
    """What ``data scan`` reads, ``accuracy`` reads too."""
    for name in ("v/caf\u00e9/1.MTS", "v/cafe\u0301/2.gif", "v/b/.3.mp4", "v/b/3.mp4", "v/b/3.srt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    left_out = LeftOut()
    found = load_labelled_videos(tmp_path / "v", ["cafe\u0301", "b"], left_out)
    assert sorted((v.path.name, v.label) for v in found) == [("1.MTS", 0), ("2.gif", 0), ("3.mp4", 1)]
    assert left_out.to_text() == "left out: 1 .srt (b), 1 hidden file (b)"
    (tmp_path / "t.csv").write_text("label;path;group\ncaf\u00e9;v\\b\\3.mp4;g\n", encoding="utf-16")
    (video,) = load_labelled_videos(tmp_path / "t.csv", ["cafe\u0301", "b"])
    assert (video.path, video.label, video.group) == (tmp_path / "v/b/3.mp4", 0, "g")
