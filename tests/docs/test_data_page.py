"""Every example of docs/data.md: its files are written, its recipe is read, and its clips are those that it shows."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from itertools import islice
from pathlib import Path

import av
import pytest
import yaml

from skd_bench.video.clip import decode_clip
from skd_bench.video.types import Preprocessing, Sampling
from skd_edge.data.sources.registry import list_clips
from skd_edge.labels.dataset import aggregate_labels
from skd_edge.recipe.loader import load_recipe

PAGE = Path(__file__).resolve().parents[2] / "docs/data.md"
BLOCK = re.compile(r"^```(\w+) ?([^\n]*)\n(.*?)^```", re.M | re.S)
EXAMPLES = {
    title: BLOCK.findall(text)
    for title, _, text in (section.partition("\n") for section in PAGE.read_text("utf-8").split("\n## "))
    if "```yaml" in text
}
# Clips in train, validation and test; a class's clips in them.
COUNTS = {
    "One folder a class": None,
    "Lines of path and label": (4, 2, 2),
    "Folders of pictures": (4, 2, 2),
    "CSV or Parquet with named columns": (5, 2, 2),
    "Several votes a clip, in columns": (4, 2, 2),
    "Several votes a clip, in rows": (4, 2, 2),
    "Untrimmed videos with spans of time": (4, 2, 2),
    "UCF101": None,
    "HMDB51": None,
    "Kinetics": (4, 2, 2),
    "WebDataset shards": (4, 2, 2),
}


def test_every_format_has_an_example():
    assert set(EXAMPLES) == set(COUNTS)


@pytest.fixture(scope="module")
def video(film, tmp_path_factory) -> Path:
    return film(tmp_path_factory.mktemp("one") / "v.mp4", frames=8, size=16)


def write_pictures(video: Path, folder: Path, count: int) -> None:
    """The first frames of a video as pictures."""
    folder.mkdir(parents=True)
    with av.open(str(video)) as container:
        for i, frame in enumerate(islice(container.decode(video=0), count)):
            frame.save(folder / f"img_{i:05}.jpg")


@pytest.mark.parametrize("title", COUNTS)
def test_example(title, video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind, where, text in EXAMPLES[title]:
        if kind == "text" and where == "files":
            for name in text.split():
                Path(name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(video, name)
        elif kind == "text" and where == "pictures":
            for line in text.splitlines():
                folder, count = line.split()
                write_pictures(video, Path(folder), int(count))
        elif kind == "text":
            Path(where).parent.mkdir(parents=True, exist_ok=True)
            Path(where).write_text(text, encoding="utf-8")
        elif kind == "python":
            pytest.importorskip("webdataset")
            os.mkdir("shards")
            exec(compile(text, PAGE, "exec"), {})
        else:
            whole = yaml.safe_load(text) | {"name": "example", "students": [{"name": "s"}]}
            Path("recipe.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
    recipe = load_recipe("recipe.yaml", ())
    listing, votes = aggregate_labels(list_clips(recipe.data, seed=0, cache=tmp_path), recipe.labels)
    counts = Counter(e.split for e in listing.entries)
    if COUNTS[title]:
        assert tuple(counts[s] for s in ("train", "val", "test")) == COUNTS[title]
    assert len(listing.classes) == 2
    assert "another number of pictures" not in listing.note
    assert (votes is not None) == ("votes" in title)
    grouped = {e.group: e.split for e in listing.entries}
    assert all(grouped[e.group] == e.split for e in listing.entries)
    for entry in listing.entries:
        if not entry.path.exists():  # the label files name it; a folder's files are there already
            entry.path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(video, entry.path)
        clip = decode_clip(entry.path, Sampling(2), Preprocessing(8, 8, "crop", (0.5,) * 3, (0.5,) * 3), entry.span)
        assert clip.shape == (2, 8, 8, 3)
    assert len({e.name for e in listing.entries}) == len(listing.entries)
