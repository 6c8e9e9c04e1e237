"""The example of docs/labels.md without any label: its files are written, and its training clips get what it says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from skd_bench.errors import UserError
from skd_edge.data.csv_files import write_sheet
from skd_edge.data.sources.registry import list_clips
from skd_edge.labels.dataset import load_training_data
from skd_edge.pipeline.plan import plan
from skd_edge.recipe.loader import load_recipe
from skd_edge.recipe.schema import Recipe

PAGE = Path(__file__).resolve().parents[2] / "docs/labels.md"
TEXT = PAGE.read_text("utf-8").split("### Without any label\n")[1].split("\n## ")[0]
BLOCKS = re.findall(r"^```(\w+) ?([^\n]*)\n(.*?)^```", TEXT, re.M | re.S)
SMALL = {
    "name": "example",
    "clip": {"frames": 4, "size": 16},
    "teacher": {"width": 4, "depths": [1]},
    "students": [{"name": "s", "width": 4, "depths": [1]}],
    "min_clips": 0.5,
}
UNTOLD = {"kind": "folder", "unlabelled": "videos", "test": 0.5}


@pytest.fixture
def example(film, tmp_path, monkeypatch) -> dict:
    """The example's recipe, its files in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "cache"))
    recipe = SMALL
    for kind, where, text in BLOCKS:
        if where == "files":
            for number, name in enumerate(text.splitlines()):
                Path(name).parent.mkdir(parents=True, exist_ok=True)
                film(Path(name), frames=4, size=16, seed=number)
        elif kind == "text":
            Path(where).write_text(text, encoding="utf-8")
        else:
            recipe = recipe | yaml.safe_load(text)
    return recipe


def written(recipe: dict) -> Recipe:
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return load_recipe("recipe.yaml", ())


def said(recipe: dict) -> dict[str, str]:
    """The weak label of each training clip."""
    material = load_training_data(written(recipe), Path("cache"))
    classes = (*material.clips.classes, "")
    return dict(zip(material.clips.train.names, (classes[i] for i in material.given_labels), strict=True))


BY_NAME = {
    "kid waving.mp4": "wave",
    "hand_wave_2.mp4": "wave",
    "dog_walk.mp4": "walk",
    "2024/WalkingHome.mp4": "walk",
    "2024/IMG_0001.mp4": "",
    "2024/IMG_0002.mp4": "",
}


def test_rules_and_a_model_label_what_nobody_did(example):
    recipe = written(example)
    assert plan(recipe).clips == 10  # listed
    assert said(example) == BY_NAME | {"2024/IMG_0001.mp4": "wave"}
    material = load_training_data(recipe, Path("cache"))
    assert material.votes.annotators == ("rules", "zero-shot")
    assert len(material.clips.val) == len(material.clips.test) == 2
    assert plan(recipe).is_decoded


def test_rules_alone_and_a_model_alone_and_a_person_alone(example):
    only = {kind: example | {"labels": {kind: example["labels"][kind]}} for kind in ("rules", "models")}
    assert said(only["rules"]) == BY_NAME
    assert said(only["models"]) == BY_NAME | {"2024/IMG_0001.mp4": "wave"}
    decided = [[name, label] for name, label in BY_NAME.items()]
    write_sheet(Path("trusted.csv"), ["clip", "trusted"], decided)
    assert said(example | {"labels": {"trusted": "trusted.csv"}}) == BY_NAME


def test_labelled_folders_and_unlabelled_videos_together(example):
    shutil.copytree("trusted", "videos/labelled/own")  # a folder of classes, and in it the others
    for label in ("wave", "walk"):
        shutil.move(f"videos/labelled/own/{label}", f"videos/labelled/{label}")
    shutil.rmtree("videos/labelled/own")
    shutil.move("videos/2024", "videos/labelled/more")
    data = {"kind": "folder", "root": "videos/labelled", "unlabelled": "videos/labelled/more"}
    recipe = example | {"data": data | {"val_root": "trusted", "test_root": "trusted"}, "allow_test_copies": True}
    found = said(recipe)
    assert found["wave/1.mp4"] == "wave"
    assert found["WalkingHome.mp4"] == "walk"
    assert found["IMG_0002.mp4"] == ""
    untold = {"WalkingHome.mp4": "", "IMG_0001.mp4": "", "IMG_0002.mp4": ""}
    assert said(recipe | {"labels": {}}) == found | untold


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": {}}, "no training clip has a label: every label is empty.*labels.rules"),
        ({"labels": {"rules": [{"label": "wave", "any": ["wav*"]}]}}, r"one class only \(wave\)"),
        ({"labels": {"rules": [{"label": "wave", "any": ["zebra"]}]}}, "every vote in rules abstains"),
        ({"labels": {"rules": [{"label": "wvae", "any": ["x"]}]}}, "did you mean 'wave'"),
        ({"data": {"kind": "folder", "unlabelled": "videos"}}, "data.val_root"),
        ({"data": {"kind": "folder", "unlabelled": "nowhere", "val_root": "trusted"}}, "nowhere is not a folder"),
        ({"data": {"kind": "folder", "unlabelled": "empty", "val_root": "trusted"}}, "holds no videos"),
        ({"data": UNTOLD | {"val_root": "one"}}, "one class only"),
        (
            {"data": UNTOLD | {"val_root": "three"}},
            "class 'sit'.*none of rules, zero",
        ),
    ],
)
def test_what_cannot_be_is_said(example, change, says):
    Path("empty").mkdir()
    shutil.copytree("trusted/wave", "one/wave")
    shutil.copytree("trusted", "three")
    shutil.copytree("trusted/wave", "three/sit")
    with pytest.raises(UserError, match=says):
        said(example | change)


def test_trusted_clips_are_never_trained_on(example):
    """A folder of all videos, the trusted ones among them."""
    shutil.move("trusted", "videos/trusted")
    recipe = example | {"data": UNTOLD | {"val_root": "videos/trusted"}}
    assert said(recipe) == BY_NAME | {"2024/IMG_0001.mp4": "wave"}


def test_one_clip_labelled_and_not(example):
    shutil.copytree("trusted", "videos/own")
    shutil.copytree("trusted", "more")
    for video in Path("more").glob("*/*.mp4"):
        video.write_bytes(video.read_bytes() + b"no copy")  # copies of validation clips are left out
    data = {"kind": "folder", "root": "videos/own", "unlabelled": "more", "val_root": "trusted"}
    recipe = written(example | {"data": data})
    with pytest.raises(UserError, match=r"walk/3.mp4 lies in .*rename"):
        list_clips(recipe.data, seed=0, cache=Path("cache"), external_labels=True)
