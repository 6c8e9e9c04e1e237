"""Formats of public data sets: path-label lists, official splits of UCF101 and HMDB51, and Kinetics CSVs."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from skd_bench.errors import UserError
from skd_bench.video.types import WHOLE_FILE, ClipSpan
from skd_edge.data.sources.registry import SPLITS, list_clips
from skd_edge.recipe.data import KineticsData, OfficialData


def listed(data, tmp_path, seed=0):
    return list_clips(data, seed=seed, cache=tmp_path / "cache")


# ------------------------------------------------------------------------------------------ official splits
def write_ucf101(folder: Path) -> OfficialData:
    """Split files of two classes with four source videos of three clips each; the last source video is for testing."""
    for name, groups in (("trainlist01.txt", (1, 2, 3)), ("testlist01.txt", (4,))):
        clips = [(c, g, i) for c in "AB" for g in groups for i in (1, 2, 3)]
        number = {"A": " 1", "B": " 2"} if name.startswith("train") else {"A": "", "B": ""}
        (folder / name).write_text("".join(f"{c}/v_{c}_g0{g}_c0{i}.avi{number[c]}\n" for c, g, i in clips))
    (folder / "classInd.txt").write_text("1 A\n2 B\n")
    return OfficialData(kind="ucf101", root=folder, splits=Path("."), val=0.4)


def test_ucf101_holds_out_whole_source_videos(tmp_path):
    data = write_ucf101(tmp_path)
    listing = listed(data, tmp_path)
    assert listing.classes == ("A", "B")
    assert Counter(e.split for e in listing.entries) == {"train": 12, "val": 6, "test": 6}
    for split in SPLITS:
        groups = Counter(e.group for e in listing.entries if e.split == split)
        assert set(groups.values()) == {3}
    assert {e.group[-3:] for e in listing.entries if e.split == "test"} == {"g04"}
    assert listed(data, tmp_path) == listing
    validation = [{e.name for e in listed(data, tmp_path, s).entries if e.split == "val"} for s in range(5)]
    assert any(v != validation[0] for v in validation)


def test_endings_in_upper_case_and_the_separator_of_windows(tmp_path):
    data = write_ucf101(tmp_path)
    for name in ("trainlist01.txt", "testlist01.txt"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text.replace(".avi", ".AVI").replace("/", "\\"))
    listing = listed(data, tmp_path)
    assert listing.classes == ("A", "B")
    assert {e.name[:5] for e in listing.entries} == {"A/v_A", "B/v_B"}


def test_videos_may_all_be_in_one_folder(tmp_path):
    data = write_ucf101(tmp_path)
    assert listed(data, tmp_path).entries[0].path.parent.name == "A"
    for entry in listed(data, tmp_path).entries:
        (tmp_path / entry.path.name).write_bytes(b"x")
    assert all(e.path == tmp_path / Path(e.name).name for e in listed(data, tmp_path).entries)


def test_hmdb51_uses_the_clips_of_its_split(tmp_path):
    for label in ("hit", "run"):
        lines = [f"film{s}_{label}_{i}.avi {use}" for s, use in ((1, 1), (2, 1), (3, 2), (4, 0)) for i in (0, 1)]
        (tmp_path / f"{label}_test_split1.txt").write_text("\n".join(lines))
        (tmp_path / f"{label}_test_split2.txt").write_text("not read")
    listing = listed(OfficialData(kind="hmdb51", root=tmp_path, splits=Path("."), val=0.5), tmp_path)
    assert Counter(e.split for e in listing.entries) == {"train": 4, "val": 4, "test": 4}
    assert {e.group for e in listing.entries} == {"film1", "film2", "film3"}
    assert {e.name for e in listing.entries if e.split == "test"} == {
        f"{label}/film3_{label}_{i}.avi" for label in ("hit", "run") for i in (0, 1)
    }


@pytest.mark.parametrize("line", ["film_hit_0.avi 3", "film_hit_0.avi", " 1"])
def test_hmdb51_lines_of_another_form(tmp_path, line):
    (tmp_path / "hit_test_split1.txt").write_text(f"film_hit_1.avi 1\n{line}\n")
    with pytest.raises(UserError, match=r"hit_test_split1\.txt:2: the line must have the form 'video\.avi 1'"):
        listed(OfficialData(kind="hmdb51", root=tmp_path, splits=Path(".")), tmp_path)


@pytest.mark.parametrize("line", ["v_A_g01_c01.avi 1", "A/v_A_g01_c01.txt 1"])
def test_ucf101_lines_of_another_form(tmp_path, line):
    data = write_ucf101(tmp_path)
    (tmp_path / "trainlist01.txt").write_text(line)
    with pytest.raises(UserError, match=r"trainlist01\.txt:1: the line must have the form 'Class/video\.avi'"):
        listed(data, tmp_path)


def test_ucf101_lists_that_contradict_the_class_index(tmp_path):
    (tmp_path / "classInd.txt").write_text("1 A\n2 B\n")
    (tmp_path / "trainlist01.txt").write_text("A/v_A_g01_c01.avi 2\n")
    data = OfficialData(kind="ucf101", root=tmp_path, splits=Path("."))
    with pytest.raises(UserError, match=r"trainlist01.txt:1: class A has number 2 here and 1 in .*classInd.txt"):
        list_clips(data, seed=0, cache=tmp_path)


@pytest.mark.parametrize("kind", ["ucf101", "hmdb51"])
def test_official_splits_that_are_missing(tmp_path, kind):
    with pytest.raises(UserError, match=r"does not exist|holds no clips of split 2"):
        list_clips(OfficialData(kind=kind, root=tmp_path, splits=Path("."), split=2), seed=0, cache=tmp_path)


# ------------------------------------------------------------------------------------------ Kinetics
def write_kinetics(root: Path) -> KineticsData:
    """One CSV and one folder for each split; each class has a video that was cut already and one that was not."""
    for split in SPLITS:
        rows = [(label, f"{split}{label}{i}", 10 * i, 10 * i + 10) for label in ("dive", "surf") for i in (0, 1)]
        (root / f"{split}.csv").write_text(
            "label,youtube_id,time_start,time_end,split\n"
            + "".join(f"{label},{video},{start},{end},{split}\n" for label, video, start, end in rows)
        )
        (root / split).mkdir()
        for _, video, start, end in rows:
            name = f"{video}_{start:06d}_{end:06d}.mp4" if start else f"{video}.mkv"
            (root / split / name).write_bytes(b"x")
    return KineticsData(kind="kinetics", root=root, **{split: Path(f"{split}.csv") for split in SPLITS})


def test_kinetics_finds_cut_and_uncut_videos(tmp_path):
    listing = listed(write_kinetics(tmp_path), tmp_path)
    assert listing.classes == ("dive", "surf")
    assert Counter(e.split for e in listing.entries) == dict.fromkeys(SPLITS, 4)
    assert all(e.path.is_file() for e in listing.entries)
    whole, cut = (next(e for e in listing.entries if e.group == f"traindive{i}") for i in (0, 1))
    assert (whole.name, whole.span) == ("train/traindive0.mkv#t=0,10", ClipSpan(0.0, 10.0))
    assert (cut.name, cut.span) == ("train/traindive1_000010_000020.mp4", WHOLE_FILE)


def test_a_kinetics_folder_whose_name_is_not_utf8(tmp_path):
    data = write_kinetics(tmp_path)
    os.rename(os.fsencode(tmp_path / "train"), os.fsencode(tmp_path) + b"/caf\xe9")
    entries = [e for e in listed(data, tmp_path).entries if e.split == "train"]
    assert [e.name.encode() for e in entries if e.group == "traindive0"] == [b"caf\\xe9/traindive0.mkv#t=0,10"]
    assert all(e.path.is_file() for e in entries)


def test_a_missing_kinetics_video_stays_listed(tmp_path):
    data = write_kinetics(tmp_path)
    (tmp_path / "train" / "traindive0.mkv").unlink()
    [entry] = [e for e in listed(data, tmp_path).entries if e.group == "traindive0"]
    assert entry.path == tmp_path / "traindive0.mp4"
    assert not entry.path.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("label,youtube_id,time_start\n", "no column 'time_end'"),
        ("label,youtube_id,time_start,time_end\ndive,x,soon,10\n", r"train\.csv:2: 'soon' is not a time"),
    ],
)
def test_kinetics_tables_that_are_wrong(tmp_path, text, words):
    data = write_kinetics(tmp_path)
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        listed(data, tmp_path)
    with pytest.raises(UserError, match=r"nowhere is not a folder; data\.root"):
        listed(data.model_copy(update={"root": tmp_path / "nowhere"}), tmp_path)
