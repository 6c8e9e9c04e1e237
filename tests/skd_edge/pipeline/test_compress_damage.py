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


def damage(file: Path, way: str) -> None:
    """Flip a byte or cut a file. Other links of the file, in other folders, stay as they are."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = file.with_suffix(".damaged")
    damaged.write_bytes(content if way == "flip" else content[: len(content) // 2])
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


@pytest.mark.parametrize("way", ["flip", "cut"])
def test_damaged_files_are_named_and_made_anew(finished, copied, way):
    cache, jobs = finished.cache, sorted(path.name for path in copied.glob("jobs/*"))
    always_read = [
        *cache.glob(f"stores/*/{'store.json' if way == 'cut' else 'clips.npy'}"),
        copied / "jobs" / jobs[0] / "weights.safetensors",  # the cache has it intact
        cache / "jobs" / jobs[1] / "val_logits.npy",  # the run has it intact
        copied / "jobs" / jobs[-1] / "job.json",
        cache / "jobs" / jobs[-1] / "weights.safetensors",  # this job is trained again
        copied / "artefacts/random/small/fp32.onnx",
        copied / "artefacts/random/large/fp32.json",
    ]
    read_in_part = [*copied.glob("labels/*.pseudo"), *copied.glob("artefacts/logits/*.logits")]
    victims = [*always_read, *read_in_part, copied / "bundle" / "manifest.json"]
    before, chosen = read_weights(copied), finished.report["chosen"]
    for file in victims:
        damage(file, way)
    done = finished.command(out=copied)
    assert done.returncode == 0, done.stderr
    assert [str(file) for file in always_read if f"{file} is damaged: expected " not in done.stderr] == []
    assert all(f"{suffix} is damaged: expected " in done.stderr for suffix in (".pseudo", ".logits"))
    report = json.loads((copied / "report.json").read_text())
    assert (report["chosen"]["path"], report["chosen"]["precision"]) == (chosen["path"], chosen["precision"])
    assert read_weights(copied) == before
    assert "damaged" in {event["event"] for event in read_journal(copied)}
    again = finished.command(out=copied)
    assert again.returncode == 0, again.stderr
    assert "is damaged" not in again.stderr
    assert read_weights(copied) == before
