"""Checked clips of a folder or a CSV: one clip each, beside its weak label, never one that is scored."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from skd_bench.errors import UserError
from skd_edge.data.sources.registry import list_clips
from skd_edge.labels.dataset import load_training_data
from skd_edge.recipe.data import FolderData
from skd_edge.recipe.schema import Recipe

BASE = {
    "name": "t",
    "clip": {"frames": 4, "size": 16},
    "teacher": {"width": 4, "depths": [1]},
    "students": [{"name": "s", "width": 4, "depths": [1]}],
}


@pytest.fixture(scope="module")
def folders(film, tmp_path_factory):
    """Class folders for training, validation and test; each file is another video."""
    root = tmp_path_factory.mktemp("data")
    for s, split in enumerate(("train", "val", "test")):
        for c, label in enumerate(("blink", "grow")):
            (root / split / label).mkdir(parents=True)
            for i in range(4):
                film(root / split / label / f"{i}.mp4", label, seed=100 * s + 10 * c + i, frames=4, size=16)
    return root


@pytest.fixture
def make_data(folders):
    def make(trusted, **keys):
        places = {"root": folders / "train", "val_root": folders / "val", "test_root": folders / "test"}
        return FolderData(kind="folder", **(places | keys), trusted=trusted)

    return make


def list_of(data, tmp_path):
    return list_clips(data, seed=0, cache=tmp_path / "cache", external_labels=data.trusted is not None)


def test_checked_folders_of_pictures_are_clips_where_the_recipe_says_always(folders, make_data, tmp_path):
    (tmp_path / "ok" / "grow" / "frames").mkdir(parents=True)
    shutil.copy(folders / "train/grow/1.mp4", tmp_path / "ok/grow/film.mp4")
    for i in (1, 2):
        (tmp_path / "ok/grow/frames" / f"{i}.jpg").write_bytes(b"x")
    (tmp_path / "ok/grow/notes.srt").touch()
    listing = list_of(make_data(tmp_path / "ok"), tmp_path)
    assert [e.name for e in listing.entries if e.checked] == ["grow/1.mp4"]
    assert listing.trusted_notes == (f"{tmp_path / 'ok'}: left out: 2 .jpg (grow/frames), 1 .srt (grow)",)
    listing = list_of(make_data(tmp_path / "ok", pictures="always"), tmp_path)
    assert [e.name for e in listing.entries if e.checked] == ["grow/1.mp4", "trusted/grow/frames"]
    assert listing.trusted_notes == (f"{tmp_path / 'ok'}: left out: 1 .srt (grow)",)


def test_a_copy_of_a_training_clip_stays_one_clip_with_two_labels(folders, make_data, film, tmp_path):
    (tmp_path / "ok" / "grow").mkdir(parents=True)
    (tmp_path / "ok" / "blink").mkdir()
    shutil.copy(folders / "train/blink/0.mp4", tmp_path / "ok/grow/renamed.mp4")  # its folder's label was wrong
    film(tmp_path / "ok/blink/new.mp4", "blink", seed=999, frames=4, size=16)
    listing = list_of(make_data(tmp_path / "ok"), tmp_path)
    by_name = {e.name: e for e in listing.entries if e.split == "train"}
    assert (by_name["blink/0.mp4"].label, by_name["blink/0.mp4"].checked) == ("blink", "grow")
    new = by_name["trusted/blink/new.mp4"]
    assert (new.label, new.checked, new.split) == ("", "blink", "train")
    assert len(listing.entries) == 25
    recipe = Recipe.model_validate(BASE | {"data": make_data(tmp_path / "ok").model_dump(mode="json")})
    data = load_training_data(recipe, tmp_path / "cache")
    found = dict(
        zip(
            data.clips.train.names,
            zip(data.weak_labels.tolist(), data.trusted_labels.tolist(), data.given_labels.tolist(), strict=True),
            strict=True,
        )
    )
    assert found["blink/0.mp4"] == (0, 1, 1)
    assert found["trusted/blink/new.mp4"] == (-1, 0, 0)
    assert found["grow/1.mp4"] == (1, -1, 1)


def test_the_folder_of_checked_clips_is_no_class(folders, make_data, film, tmp_path):
    root = tmp_path / "train"
    shutil.copytree(folders / "train", root)
    (root / "checked" / "grow").mkdir(parents=True)
    film(root / "checked/grow/z.mp4", "grow", seed=55, frames=4, size=16)
    listing = list_of(make_data(root / "checked", root=root), tmp_path)
    assert listing.classes == ("blink", "grow")
    assert [e.name for e in listing.entries if e.checked] == ["trusted/grow/z.mp4"]


def test_a_csv_names_checked_clips_relative_to_itself(folders, make_data, tmp_path):
    file = folders / "checked.csv"
    file.write_text("path,label\ntrain/blink/1.mp4,blink\ntrain/grow/2.mp4,blink\n,\n")
    listing = list_of(make_data(file), tmp_path)
    assert {e.name: e.checked for e in listing.entries if e.checked} == {"blink/1.mp4": "blink", "grow/2.mp4": "blink"}


def test_what_cannot_be_used_is_noted(folders, make_data, tmp_path):
    file = folders / "odd.csv"
    rows = ["train/blink/1.mp4,blink", "train/grow/2.mp4,blink", "train/grow/2.mp4,grow", "train/grow/3.mp4,grwo"]
    file.write_text("\n".join(["path,label", *rows, "nowhere.mp4,grow"]))
    note = "; ".join(list_of(make_data(file), tmp_path).trusted_notes)
    assert "1 checked clips do not exist and were left out (first: nowhere.mp4)" in note
    assert "1 checked clips are of an unknown class and were left out (first: 'grwo' of train/grow/3.mp4)" in note
    assert "2 checked clips have two labels and were left out (first: train/grow/2.mp4)" in note
    file.write_text("path,label\nnowhere.mp4,grow\n")
    with pytest.raises(
        UserError, match=r"odd\.csv gives no checked clip that can be used: 1 checked clips do not exist"
    ):
        list_of(make_data(file), tmp_path)
    with pytest.raises(UserError, match="does not exist; it names a folder of checked clips, or a CSV"):
        list_of(make_data(folders / "nothing.csv"), tmp_path)


def test_a_copy_of_a_validation_clip_is_refused(folders, make_data, tmp_path):
    (tmp_path / "bad" / "grow").mkdir(parents=True)
    shutil.copy(folders / "val/grow/0.mp4", tmp_path / "bad/grow/x.mp4")
    shutil.copy(folders / "test/grow/1.mp4", tmp_path / "bad/grow/y.mp4")
    # class folders of different splits have files of the same names: names carry the split
    with pytest.raises(UserError, match=r"data\.trusted: .* clip.*\(and 1 more such clips\)"):
        list_of(make_data(tmp_path / "bad"), tmp_path)


def test_a_group_of_a_validation_clip_is_refused(folders, make_data, film, tmp_path):
    (tmp_path / "more" / "grow").mkdir(parents=True)
    film(tmp_path / "more/grow/tape7 b.mp4", "grow", seed=5, frames=4, size=16)
    val = tmp_path / "val"
    shutil.copytree(folders / "val", val)
    film(val / "grow/tape7 a.mp4", "grow", seed=6, frames=4, size=16)
    with pytest.raises(UserError, match="group 'tape7' has val clips"):
        list_of(make_data(tmp_path / "more", val_root=val, group=r"(tape\d)"), tmp_path)


def test_checked_clips_alone_label_unlabelled_videos(folders, film, tmp_path):
    """No weak source at all: the weak labels are empty, and training starts from the checked ones."""
    for i in range(3):
        (tmp_path / "videos").mkdir(exist_ok=True)
        film(tmp_path / "videos" / f"u{i}.mp4", "grow", seed=70 + i, frames=4, size=16)
    places = {"val_root": str(folders / "val"), "test_root": str(folders / "test"), "trusted": str(folders / "train")}
    data = {"kind": "folder", "unlabelled": str(tmp_path / "videos"), **places}
    loaded = load_training_data(Recipe.model_validate(BASE | {"data": data}), tmp_path / "cache")
    assert (loaded.weak_labels == -1).all()
    assert np.bincount(loaded.given_labels + 1).tolist() == [3, 4, 4]
