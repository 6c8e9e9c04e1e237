"""Labelled videos come from folders or a CSV file."""

import csv

import pytest

from skd_bench.errors import UserError
from skd_bench.evaluation.labelled_videos import load_labelled_videos


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
        ("path\na.mp4\n", "path or label is missing; the columns are: path"),
        ("", "no labelled videos"),
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


@pytest.mark.parametrize(
    ("content", "words"), [(b"path,label\n\xff", "not a CSV file in UTF-8"), (None, "cannot read")]
)
def test_a_table_that_cannot_be_read_is_refused(tmp_path, content, words):
    if content is not None:
        (tmp_path / "index.csv").write_bytes(content)
    with pytest.raises(UserError, match=words):
        load_labelled_videos(tmp_path / "index.csv", ["a"])
