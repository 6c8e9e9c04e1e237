"""Files of every kind are damaged: the next run names each, makes it anew, and has the same result.

bench/suites/robustness/damage.py damages one file at a time, two hundred times.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from skd_bench.files import sha256_file
from skd_edge.run_folder import read_journal

CACHE = ("stores/*/clips.npy", "stores/*/store.json", "generated/*/clips/val/blink/*.mp4", "jobs/*/weights.safetensors")
RUN = (
    "jobs/*/weights.safetensors",
    "jobs/*/job.json",
    "labels/*.pseudo",
    "artefacts/random/small/fp32.onnx",
    "artefacts/random/small/fp32.json",
    "artefacts/logits/*.logits",
    "bundle/manifest.json",
)


def damage(file: Path, way: str) -> None:
    """Flip a byte, cut a file or empty it. Other links of the file, in other folders, stay as they are."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = file.with_suffix(".damaged")
    damaged.write_bytes({"flip": bytes(content), "cut": bytes(content[: len(content) // 2]), "empty": b""}[way])
    os.replace(damaged, file)


def read_weights(folder: Path) -> dict[str, str]:
    return {file.parent.name: sha256_file(file) for file in folder.glob("jobs/*/weights.safetensors")}


@pytest.fixture
def copied(finished, tmp_path) -> Iterator[Path]:
    """A copy of the finished run; its cache, which others share, is whole again after the test."""
    intact = shutil.copytree(finished.cache, tmp_path / "cache")
    yield shutil.copytree(finished.folder, tmp_path / "run")
    shutil.rmtree(finished.cache)
    shutil.copytree(intact, finished.cache)


@pytest.mark.parametrize("way", ["flip", "cut", "empty"])
def test_damaged_files_are_named_and_made_anew(finished, copied, way):
    victims = [sorted(home.glob(kind))[0] for home, kinds in ((finished.cache, CACHE), (copied, RUN)) for kind in kinds]
    # Where the list of a store is damaged, its pixels are not looked at.
    victims = [file for file in victims if file.name != ("clips.npy" if way == "cut" else "store.json")]
    before, chosen = read_weights(copied), finished.report["chosen"]
    for file in victims:
        damage(file, way)
    done = finished.command(out=copied)
    assert done.returncode == 0, done.stderr
    unnamed = [file.name for file in victims if f"{file} is damaged: expected " not in done.stderr]
    assert unnamed == ["manifest.json"]  # a bundle is written anew by every run
    report = json.loads((copied / "report.json").read_text())
    assert (report["chosen"]["path"], report["chosen"]["precision"]) == (chosen["path"], chosen["precision"])
    assert read_weights(copied) == before
    assert "damaged" in {event["event"] for event in read_journal(copied)}
    again = finished.command(out=copied)
    assert again.returncode == 0, again.stderr
    assert "is damaged" not in again.stderr
    assert read_weights(copied) == before
