"""A recipe with small real videos, for tests of the scan and of the store's builder."""

from __future__ import annotations

import pytest
import yaml


@pytest.fixture
def recipe(film, tmp_path):
    """A recipe file of two classes with twelve clips each; all videos are copies of one file."""
    video = film(tmp_path / "one.mp4", frames=6, size=16).read_bytes()
    for label in "ab":
        (tmp_path / "videos" / label).mkdir(parents=True)
        for i in range(12):
            (tmp_path / "videos" / label / f"{i}.mp4").write_bytes(video)
    file = tmp_path / "recipe.yaml"
    data = {"kind": "folder", "root": "videos", "val": 0.25, "test": 0.25}
    clip = {"frames": 2, "size": 16}
    file.write_text(yaml.safe_dump({"name": "r", "data": data, "clip": clip, "students": [{"name": "s"}]}))
    return file
