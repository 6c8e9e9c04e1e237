"""Listing the clips of a recipe: folders and the generated set; errors with a way out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from skd_bench.errors import UserError
from skd_edge.data.sources.group_folds import FoldError
from skd_edge.data.sources.registry import (
    SPLITS,
    _list_source,
    is_rendered,
    list_classes,
    list_clips,
    list_folds,
    list_recipe_clips,
)
from skd_edge.recipe.cross_validation import CrossValidation
from skd_edge.recipe.data import FolderData, GeneratedData
from skd_edge.recipe.schema import NetworkSpec, Recipe


def names(listing, split):
    return [e.name for e in listing.entries if e.split == split]


def touch(root: Path, **classes: int) -> Path:
    """Files with the names of videos; listing does not open them."""
    for label, count in classes.items():
        for i in range(count):
            (root / label).mkdir(parents=True, exist_ok=True)
            (root / label / f"{label} {i}.mp4").write_bytes(f"{label} {i} {root}".encode())
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
    assert "as reliable as those of the folder" in one.note


def test_folders_for_validation_and_test(tmp_path):
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
def test_folders_that_cannot_be_trained_on(tmp_path, classes, words):
    root = touch(tmp_path / "root", **classes)
    with pytest.raises(UserError, match=words):
        listed(FolderData(kind="folder", root=root, val=0.3, test=0.2), tmp_path)


def test_folder_that_is_missing_or_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    for root in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(UserError, match=f"{root} is not a folder"):
            listed(FolderData(kind="folder", root=root), tmp_path)


# ------------------------------------------------------------------------------------------ the generated set
def test_generated(tmp_path):
    data = GeneratedData(kind="generated", train=20, val=10, test=10, frames=4, size=16)
    listing = listed(data, tmp_path)
    assert Counter(e.split for e in listing.entries) == {"train": 20, "val": 10, "test": 10}
    assert all(e.path.is_file() for e in listing.entries)
    assert len(listing.classes) == 10


def test_the_classes_of_the_generated_set_need_no_rendering(tmp_path):
    data = GeneratedData(kind="generated", train=24, val=11, test=11, frames=4, size=16, nothing=2)
    recipe = Recipe(name="r", data=data, students=(NetworkSpec(name="s"),))
    classes = list_classes(recipe, tmp_path)
    assert len(classes) == 11
    assert not is_rendered(data, 0, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert list_clips(data, seed=0, cache=tmp_path).classes == classes
    assert is_rendered(data, 0, tmp_path)
    assert not is_rendered(data, 1, tmp_path)
    assert not is_rendered(data.model_copy(update={"difficulty": 0.5}), 0, tmp_path)


def test_the_classes_of_folders(tmp_path):
    data = FolderData(kind="folder", root=touch(tmp_path / "root", b=5, a=5), val=0.2, test=0.2)
    recipe = Recipe(name="r", data=data, students=(NetworkSpec(name="s"),))
    assert list_classes(recipe, tmp_path) == ("a", "b")


def test_the_folds_of_a_recipe(tmp_path):
    """Groups by the pattern of the data, or by that of the folds; a pattern that occurs nowhere is refused."""
    root = touch(tmp_path / "v", a=9, b=9)

    def make_recipe(pattern: str | None, **folds: object) -> Recipe:
        data = FolderData(kind="folder", root=root, group=pattern)
        settings = CrossValidation(folds=3, **folds)
        return Recipe(name="r", data=data, students=(NetworkSpec(name="s"),), cross_validation=settings)

    assert len(list_folds(make_recipe(r"(\d)\.mp4"), tmp_path).fold_by_group) == 9
    assert set(list_folds(make_recipe(None, group=r"[3-8]"), tmp_path).fold_by_group) >= {"3", "8"}
    own_splits = list_recipe_clips(make_recipe(r"(\d)\.mp4"), tmp_path)
    fold = list_recipe_clips(make_recipe(r"(\d)\.mp4", fold=2), tmp_path)
    assert {e.name for e in fold.entries} == {e.name for e in own_splits.entries}
    assert Counter(e.split for e in fold.entries)["test"] == 6
    for recipe in (make_recipe("nowhere"), make_recipe(None, group="nowhere")):
        with pytest.raises(FoldError, match="'nowhere' occurs in no clip's name"):
            list_folds(recipe, tmp_path)
    with pytest.raises(FoldError, match="cross_validation: is missing"):
        list_folds(make_recipe("x").model_copy(update={"cross_validation": None}), tmp_path)


def test_copies_of_validation_and_test_clips_are_no_training_clips(tmp_path):
    """Whoever looks at some videos of a folder copies them; in the other direction nothing is left out."""
    root, checked = touch(tmp_path / "videos", x=3, y=3), tmp_path / "checked"
    for name in ("x/x 0.mp4", "x/x 1.mp4", "y/y 0.mp4", "y/y 1.mp4"):
        (checked / name).parent.mkdir(parents=True, exist_ok=True)
        (checked / name).write_bytes((root / name).read_bytes())
    (root / "x" / "x 2.mp4").write_bytes(b"z" * (root / "x" / "x 0.mp4").stat().st_size)  # of equal size
    listing = _list_source(
        FolderData(kind="folder", unlabelled=root, val_root=checked, test=0.5), seed=0, cache=tmp_path, progress=None
    )
    assert names(listing, "train") == ["x/x 2.mp4", "y/y 2.mp4"]
    assert (
        "4 unlabelled videos are copies of validation or test clips and were left out (first: x/x 0.mp4)"
        in listing.note
    )


def test_unlabelled_videos_are_training_clips_only(tmp_path):
    root, more = touch(tmp_path / "root", a=4, b=4), touch(tmp_path / "more", x=2, y=1)
    listing = listed(FolderData(kind="folder", root=root, unlabelled=more, val=0.25, test=0.25), tmp_path)
    unlabelled = [e for e in listing.entries if not e.label]
    assert [e.name for e in unlabelled] == ["x/x 0.mp4", "x/x 1.mp4", "y/y 0.mp4"]
    assert {e.split for e in unlabelled} == {"train"}
    assert listing.classes == ("a", "b")


def test_one_folder_of_checked_clips_is_shared_by_validation_and_test(tmp_path):
    """No training clip has a label here; rules, models or trusted labels give one later."""
    checked, videos = touch(tmp_path / "checked", a=10, b=10), touch(tmp_path / "videos", x=3)
    data = FolderData(kind="folder", unlabelled=videos, val_root=checked, test=0.3)
    listing = list_clips(data, seed=0, cache=tmp_path, external_labels=True)
    assert Counter(e.split for e in listing.entries) == {"train": 3, "val": 14, "test": 6}
    assert "test is a share of the validation folder" in listing.note
    with pytest.raises(UserError, match="no training clip has a label"):
        list_clips(data, seed=0, cache=tmp_path)


def test_a_class_has_one_name_in_both_unicode_forms(tmp_path):
    root = touch(tmp_path / "root", **{"caf\u00e9": 4, "cafe\u0301": 4, "b": 8})
    listing = listed(FolderData(kind="folder", root=root, val=0.25, test=0.25), tmp_path)
    assert listing.classes == ("b", "caf\u00e9")
    assert len(listing.entries) == 16


def test_what_a_folder_holds_besides_clips_is_in_the_note(tmp_path):
    root = touch(tmp_path / "root", a=5, b=5)
    (root / "a" / "._a 0.mp4").write_bytes(b"x")
    (root / "a" / "a 0.srt").write_bytes(b"x")
    (root / "b" / "b 9.MTS").write_bytes(b"x")
    listing = listed(FolderData(kind="folder", root=root, val=0.2, test=0.2), tmp_path)
    assert len(listing.entries) == 11
    assert "left out: 1 .srt (a), 1 hidden file (a)" in listing.note


def test_folders_of_pictures_are_clips_where_there_is_no_video(tmp_path):
    for label in "ab":
        for i in range(5):
            for k in range(3):
                (tmp_path / "root" / label / f"{i}").mkdir(parents=True, exist_ok=True)
                (tmp_path / "root" / label / f"{i}" / f"{k}.jpg").write_bytes(b"x")
    data = FolderData(kind="folder", root=tmp_path / "root", val=0.2, test=0.2)
    assert {e.name for e in listed(data, tmp_path).entries} == {f"{c}/{i}" for c in "ab" for i in range(5)}
    touch(tmp_path / "root", a=5, b=5)
    assert all(e.name.endswith(".mp4") for e in listed(data, tmp_path).entries)
    assert len(listed(data.model_copy(update={"pictures": "always"}), tmp_path).entries) == 20
