"""A cross-validation of a tiny set: killed in its second fold, then finished by the same command."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

MOTIONS = ("move_left", "spin_cw", "blink")
PEOPLE = 6
RECIPE = """\
name: tiny
data:
  kind: csv
  root: set
  train: {split: [train]}
  val: {split: [val]}
  test: {split: [test]}
cross_validation: {folds: 3, group: person}
clip: {frames: 4, size: 16}
augment: {shift: 1, views: 2}
teacher: {family: resnet, width: 4, depths: [1]}
students:
  - {name: small, width: 4, depths: [1]}
labels: {optimise: false}
training: {teacher_epochs: 2, epochs: 2, batch: 8, rounds: 1}
export: {precisions: [fp32], calibration_clips: 0}
bench: {processes: 1, queries: 20}
"""


@dataclass(frozen=True)
class CrossValidated:
    """A finished cross-validation.

    Attributes:
        home: where recipe, clips, cache and ledger are.
        folder: the folder of the cross-validation.
        folds_before_kill: the folds that were finished when it was killed.
    """

    home: Path
    folder: Path
    folds_before_kill: tuple[int, ...]

    @property
    def recipe(self) -> str:
        return str(self.home / "recipe.yaml")

    def read_events(self, name: str, fold: int | None = None) -> list[dict[str, object]]:
        """The events of this name in the journal of the whole, or of one fold."""
        return events(self.folder if fold is None else self.folder / "folds" / str(fold), name)


def events(folder: Path, name: str) -> list[dict[str, object]]:
    file = folder / "journal.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [e for line in lines if line.endswith("}") and (e := json.loads(line))["event"] == name]


def places(home: Path) -> dict[str, str]:
    return {"SKD_EDGE_CACHE": str(home / "cache"), "SKD_EDGE_LEDGER": str(home / "looks.jsonl")}


@pytest.fixture(scope="session")
def cross_validated(tmp_path_factory, film) -> CrossValidated:
    home = tmp_path_factory.mktemp("crossval")
    splits = ("train", "train", "train", "train", "val", "test")
    rows = [(f"{m}/p{p}-{i}.mp4", m, f"p{p}", splits[p]) for p in range(PEOPLE) for m in MOTIONS for i in range(2)]
    for number, (name, motion, _, _) in enumerate(rows):
        film(home / "set" / name, motion, seed=number, size=16)
    with (home / "set" / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "person", "split"), *rows])
    (home / "recipe.yaml").write_text(RECIPE)
    folder = home / "folds of one"
    words = [sys.executable, "-m", "skd_edge.cli", "crossval", str(home / "recipe.yaml"), "--out", str(folder)]
    before = _kill_in_second_fold([*words, "--jobs", "1"], folder, places(home))
    done = subprocess.run(
        [*words, "--jobs", "1"],
        env=os.environ | places(home),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"report: {folder / 'crossval.html'}" in done.stdout
    return CrossValidated(home, folder, before)


def _kill_in_second_fold(words: list[str], folder: Path, variables: dict[str, str]) -> tuple[int, ...]:
    """Start it, and SIGKILL it when the second fold has trained a job; the folds that are finished then."""
    process = subprocess.Popen(
        words, env=os.environ | variables, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 200
    try:
        while time.monotonic() < deadline:
            if events(folder / "folds" / "2", "job_finished"):
                return tuple(int(str(e["fold"])) for e in events(folder, "fold_finished"))
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            time.sleep(0.02)
        raise AssertionError("the second fold trained nothing in time")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def here(cross_validated, monkeypatch) -> CrossValidated:
    """The cross-validation, with its cache and ledger as those of this test; the working directory is its home."""
    for name, value in places(cross_validated.home).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(cross_validated.home)
    return cross_validated
