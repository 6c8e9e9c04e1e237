"""Real videos with the votes of three annotators, for tests of the loaded labels and of their report."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from skd_edge.recipe.schema import Recipe

CLASSES = ("blink", "grow", "spin_cw")
BASE = {
    "name": "g",
    "clip": {"frames": 4, "size": 16},
    "teacher": {"width": 4, "depths": [1]},
    "students": [{"name": "s", "width": 4, "depths": [1]}],
    "training": {"epochs": 1, "teacher_epochs": 1, "batch": 8},
}


@pytest.fixture(scope="session")
def voted_videos(film, tmp_path_factory):
    """Real files and a table: three annotators (the last one guesses), two clips without votes, one unreadable file."""
    root, rng = tmp_path_factory.mktemp("voted"), np.random.default_rng(0)
    rows = []
    for i in range(36):
        name, split = CLASSES[i % 3], ("train", "val", "test")[max(i // 6 - 2, 0)] if i < 30 else "train"
        film(root / f"{i}.mp4", name, seed=i, frames=4, size=16)
        votes = [name if rng.random() < 0.9 else "", name if rng.random() < 0.9 else "grow", CLASSES[rng.integers(3)]]
        rows.append([f"{i}.mp4", name if split != "train" else "", *votes, split, name])
    for i in (0, 4):
        rows[i][2:5] = ["", "", " "]
    (root / "2.mp4").write_bytes(b"not a video")
    with (root / "index.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["path", "label", "anna", "ben", "guess", "split", "truth"], *rows])
    return root


@pytest.fixture(scope="session")
def voted_cache(tmp_path_factory):
    """A cache of its own, so that the files are decoded once for all these tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def voted_recipe():
    """A function from a folder and sections to a recipe whose training clips have votes."""

    def make(root, **sections):
        data = {"kind": "csv", "root": root, "votes": ["anna", "ben", "guess"]}
        data |= {s: {"split": [s]} for s in ("train", "val", "test")}
        return Recipe.model_validate(BASE | {"data": data} | sections)

    return make
