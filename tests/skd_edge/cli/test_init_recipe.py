"""A first recipe for folders as people have them, with real videos."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from skd_bench.errors import UsageError
from skd_edge.cli.init_recipe import write_recipe
from skd_edge.data.sources.registry import list_clips
from skd_edge.recipe.data import FolderData, ListData, TableData
from skd_edge.recipe.loader import load_recipe


def film(path: Path, frames: int = 6, width: int = 48, height: int = 32, format: str | None = None) -> None:
    """A short real H.264 file; its format is by default that of its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(frames):
            image = np.full((height, width, 3), 20 * i % 255, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def table(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def refusal(folder: Path, out: Path) -> str:
    with pytest.raises(UsageError) as caught:
        write_recipe(folder, out)
    assert not out.exists()
    return str(caught.value)


def test_class_folders(tmp_path):
    root = tmp_path / "my clips ü"
    for name, count in (("up", 11), ("dówn {x}", 4), ("alone", 1)):
        for i in range(count):
            film(root / name / f"{i:02}.mp4", frames=5 + i)
    found = write_recipe(root, tmp_path / "r.yaml")
    recipe = load_recipe(tmp_path / "r.yaml")
    assert recipe.data == FolderData(kind="folder", root=root, val=0.15, test=0.15)
    assert recipe.clip.frames == 5
    assert recipe.clip.size == 32
    assert found.clips == {"up": 11, "dówn {x}": 4, "alone": 1}
    assert ["alone" in w or "dówn" in w for w in found.warnings] == [True, True]
    text = (tmp_path / "r.yaml").read_text(encoding="utf-8")
    assert "5 to 8 frames" in text
    assert 20 <= len(text.splitlines()) <= 40
    assert sum("#" in line for line in text.splitlines()) >= 10


def test_split_folders(tmp_path):
    for name in ("train/a/1.mp4", "train/b/1.mp4", "val/a/1.mp4", "val/c/1.mp4"):
        film(tmp_path / name)
    found = write_recipe(tmp_path, tmp_path / "r.yaml")
    data = load_recipe(tmp_path / "r.yaml").data
    assert isinstance(data, FolderData)
    assert (data.root, data.val_root, data.test_root) == (tmp_path / "train", tmp_path / "val", None)
    assert any("'c' is in val and not in train" in w for w in found.warnings)


def test_csv_index(tmp_path):
    rows = [["Path", "class", "subset", "actor"]]
    for i, split in enumerate(["train", "train", "validation", "test"]):
        film(tmp_path / f"v/{i}.mkv")
        rows.append([f"v/{i}.mkv", ["no", "yes"][i % 2], split, str(i)])
    table(tmp_path / "index.csv", rows)
    write_recipe(tmp_path, tmp_path / "r.yaml")
    data = load_recipe(tmp_path / "r.yaml").data
    assert isinstance(data, TableData)
    assert (data.file, data.path, data.label, data.group) == (Path("index.csv"), "Path", "class", "actor")
    assert (data.train, data.val) == ({"subset": ["train"]}, {"subset": ["validation"]})


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([["path", "label"], ["a.mp4", "x"]], "no column for split"),
        ([["path", "label", "split"], ["a.mp4", "x", "train"]], "no row whose 'split' is 'val'"),
        ([[]], "no column for path, label, split"),
    ],
)
def test_csv_that_cannot_be(tmp_path, rows, words):
    table(tmp_path / "index.csv", rows)
    message = refusal(tmp_path, tmp_path / "r.yaml")
    assert "index.csv" in message
    assert words in message


def test_folders_that_cannot_be(tmp_path):
    out = tmp_path / "r.yaml"
    assert "No such file" in refusal(tmp_path / "absent", out)
    (tmp_path / "empty").mkdir()
    assert "no videos" in refusal(tmp_path / "empty", out)
    film(tmp_path / "flat" / "a b.mp4")
    assert "flat/CLASS/a b.mp4" in refusal(tmp_path / "flat", out)
    film(tmp_path / "one" / "only" / "a.mp4")
    assert "one class ('only')" in refusal(tmp_path / "one", out)
    assert "Not a directory" in refusal(tmp_path / "flat" / "a b.mp4", out)


def test_videos_that_are_none(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "v" / name).mkdir(parents=True)
        (tmp_path / "v" / name / "x.mp4").write_text("this is text")
    assert "none of the 2 videos" in refusal(tmp_path / "v", tmp_path / "r.yaml")
    film(tmp_path / "v" / "a" / "y.mp4")
    (tmp_path / "v" / "b" / "zero.mp4").touch()
    found = write_recipe(tmp_path / "v", tmp_path / "r.yaml")
    assert sum("cannot be read as a video" in w for w in found.warnings) == 3


def test_never_overwrites_unasked(tmp_path):
    film(tmp_path / "v" / "a" / "1.mp4")
    film(tmp_path / "v" / "b" / "1.mp4")
    out = tmp_path / "r.yaml"
    out.write_text("mine")
    with pytest.raises(UsageError, match="--force"):
        write_recipe(tmp_path / "v", out)
    assert out.read_text() == "mine"
    write_recipe(tmp_path / "v", out, force=True)
    assert load_recipe(out).name == "v"


def test_it_counts_what_scan_reads_and_states_the_rest(tmp_path):
    for name in ("a/1.mp4", "a/.hidden.mp4", "a/.ipynb_checkpoints/1.mp4", "b/deep/1.mp4", "else/1.mp4"):
        film(tmp_path / "v" / name if not name.startswith("else") else tmp_path / name)
    (tmp_path / "v/a/1.mp4").rename(tmp_path / "v/a/1.M4V")
    (tmp_path / "v/b/more").symlink_to(tmp_path / "else")
    (tmp_path / "v/b/1.srt").touch()
    for i in range(9):
        shutil.copy(tmp_path / "v/a/1.M4V", tmp_path / f"v/a/more {i}.MTS")
        shutil.copy(tmp_path / "v/a/1.M4V", tmp_path / f"else/{i}.mp4")
    found = write_recipe(tmp_path / "v", tmp_path / "r.yaml")
    assert found.clips == {"a": 10, "b": 10}
    assert found.left_out == "left out: 1 .srt (b), 1 hidden file (a), 1 hidden folder (a)"
    assert found.left_out in found.to_text()
    listing = list_clips(load_recipe(tmp_path / "r.yaml").data, seed=0, cache=tmp_path)
    assert Counter(e.label for e in listing.entries) == found.clips
    assert found.left_out in listing.note


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_tables_as_spreadsheets_save_them(tmp_path, encoding):
    rows = ["Path;class;subset"]
    for i, split in enumerate(["train", "train", "val", "val", "test", ""]):
        film(tmp_path / f"v/{i}.mp4")
        rows.append(f"v\\{i}.mp4;{['no', 'yes'][i % 2]};{split}")
    (tmp_path / "index.csv").write_text("\n".join(rows), encoding=encoding)
    found = write_recipe(tmp_path, tmp_path / "r.yaml")
    assert found.clips == {"no": 3, "yes": 2}
    assert "1 rows of index.csv are in no split" in found.warnings[0]
    data = load_recipe(tmp_path / "r.yaml").data
    assert len(list_clips(data, seed=0, cache=tmp_path, external_labels=True).entries) == 5


def test_folders_of_pictures(tmp_path):
    for label in "ab":
        film(tmp_path / "film.mp4", frames=6)
        with av.open(str(tmp_path / "film.mp4")) as container:
            for i, frame in enumerate(container.decode(video=0)):
                picture = tmp_path / "v" / label / "clip" / f"{i}.png"
                picture.parent.mkdir(parents=True, exist_ok=True)
                frame.save(picture)
    found = write_recipe(tmp_path / "v", tmp_path / "r.yaml")
    assert (found.clips, found.width, found.frames) == ({"a": 1, "b": 1}, 48, (6, 6))


def test_lists_of_other_tools(tmp_path):
    for name, text in {
        "train": "v\\1.mp4 0\nv\\2.mp4 1\n",
        "val": "v/3.mp4 0\nv/3b.mp4 1\n",
        "test": "v/4.mp4 1\n",
    }.items():
        (tmp_path / f"{name}_list.txt").write_text(text)
    (tmp_path / "classes.txt").write_text("no\nyes\n")
    for name in ("1", "2", "3", "3b", "4"):
        film(tmp_path / f"v/{name}.mp4")
    found = write_recipe(tmp_path, tmp_path / "r.yaml")
    assert found.clips == {"no": 2, "yes": 3}
    data = load_recipe(tmp_path / "r.yaml").data
    assert data == ListData(
        kind="list",
        root=tmp_path,
        train=Path("train_list.txt"),
        val=Path("val_list.txt"),
        test=Path("test_list.txt"),
        classes=Path("classes.txt"),
    )
    (tmp_path / "r.yaml").unlink()
    (tmp_path / "val_list.txt").write_text("v/3.mp4 0 1\n")
    assert "this row gives the clip 2 labels" in refusal(tmp_path, tmp_path / "r.yaml")


def test_raw_streams_without_an_index_are_probed(tmp_path):
    for label in "ab":
        film(tmp_path / "v" / label / "1.264", frames=7, format="h264")
    found = write_recipe(tmp_path / "v", tmp_path / "r.yaml")
    assert (found.width, found.height, found.frames) == (48, 32, (7, 7))
    assert not any("cannot be read" in warning for warning in found.warnings)


def test_the_cover_picture_of_a_song_is_not_probed(tmp_path):
    film(tmp_path / "v/a/1.mp4")
    (tmp_path / "v/b").mkdir()
    with av.open(str(tmp_path / "v/b/song.mp4"), "w") as container:
        sound, cover = container.add_stream("aac", rate=16_000), container.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 16
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 16_000
        container.mux(cover.encode(av.VideoFrame(16, 16, "yuvj420p")))
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    found = write_recipe(tmp_path / "v", tmp_path / "r.yaml")
    assert (found.width, found.frames) == (48, (6, 6))
    assert any("song.mp4: cannot be read as a video: it contains no video" in warning for warning in found.warnings)


# ------------------------------------------------------------------------------------------ videos without labels
def test_rules_for_videos_without_labels(tmp_path):
    """Names with the words of a class get its vote; a copy of a checked clip is not a training video."""
    for name in ("Wave hand 1", "deep/waveHand", "IMG_0001", "walkers", "wave_hand walk"):
        film(tmp_path / "videos" / f"{name}.mp4", frames=5 + len(name))
    for label, count in (("wave hand", 11), ("walk", 2), ("!", 1)):
        for i in range(count):
            film(tmp_path / "checked" / label / f"{i}.mp4", frames=40 + 2 * i + len(label))
    shutil.copy(tmp_path / "checked/walk/0.mp4", tmp_path / "videos" / "walk away.mp4")
    found = write_recipe(tmp_path / "videos", tmp_path / "r.yaml", checked=tmp_path / "checked")
    assert found.unlabelled == 5
    assert found.rules == {"walk": ("walk", 0), "wave hand": ("wave hand", 2)}
    assert [w.split(" (")[0] for w in found.warnings] == [
        "no video has the keyword 'walk', and a class without any vote is refused: write other keywords for 'walk' in "
        "labels.rules",
        "2 classes have fewer than 10 checked clips",
    ]
    text = found.to_text()
    assert "5 videos without labels, and checked: 14 clips in 3 classes" in text
    assert "    11  wave hand checked; the keyword 'wave hand' labels 2 videos" in text
    recipe = load_recipe(tmp_path / "r.yaml")
    data = FolderData(kind="folder", unlabelled=tmp_path / "videos", val_root=tmp_path / "checked", test=0.5)
    assert recipe.data == data
    assert [(r.label, r.any, r.within) for r in recipe.labels.rules] == [
        ("walk", ("walk",), ("path",)),
        ("wave hand", ("wave hand",), ("path",)),
    ]


@pytest.mark.parametrize(
    ("videos", "checked", "message"),
    [
        (["a.mp4"], [], "checked is not a folder"),
        (["a.mp4"], ["x/1.txt"], "no videos; it needs one folder for each class"),
        (["a.mp4"], ["x/1.mp4"], r"videos of one class only \('x'\)"),
        ([], ["x/1.mp4", "y/1.mp4"], "videos is not a folder"),
        (["a.txt"], ["x/1.mp4", "y/1.mp4"], "no videos besides those of"),
    ],
)
def test_checked_folders_that_cannot_be_used(tmp_path, videos, checked, message):
    for name in [*(f"videos/{v}" for v in videos), *(f"checked/{c}" for c in checked)]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    with pytest.raises(UsageError, match=message):
        write_recipe(tmp_path / "videos", tmp_path / "r.yaml", checked=tmp_path / "checked")
    assert not (tmp_path / "r.yaml").exists()


def test_loose_videos_are_told_of_the_option(tmp_path):
    film(tmp_path / "v" / "1.mp4")
    assert "add --checked FOLDER: rules label the others" in refusal(tmp_path / "v", tmp_path / "r.yaml")
