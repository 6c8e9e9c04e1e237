"""Every test here has a cache and a ledger of its own; small real videos, and one whole run that several files read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes half a minute or more; runs all the same")


@pytest.fixture(autouse=True)
def own_places(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's cache and ledger are never touched; returns the cache."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("SKD_EDGE_CACHE", str(home / "cache"))
    monkeypatch.setenv("SKD_EDGE_LEDGER", str(home / "looks.jsonl"))
    return home / "cache"


RECIPE: dict[str, Any] = {
    "name": "tiny",
    "data": {"kind": "generated", "train": 120, "val": 40, "test": 40, "frames": 8, "size": 16},
    "clip": {"frames": 4, "size": 16},
    "augment": {"shift": 1, "views": 2},
    "labels": {"noise": {"kind": "symmetric", "rate": 0.4}},
    "teacher": {"family": "resnet", "width": 8},
    "assistants": [{"name": "assistant", "family": "resnet", "width": 4}],
    "students": [{"name": "small", "width": 4}, {"name": "large", "family": "resnet", "width": 96}],
    "training": {"teacher_epochs": 2, "epochs": 2, "batch": 32, "rounds": 1},
    "schedule": {"controls": ["alone", "kd"]},
    "export": {"calibration_clips": 32, "int8_agreement": 0.0, "sample_clips": 2},
    "bench": {"processes": 1, "queries": 70},
    # The large student takes some fifteen times as long as the teacher, the small one less than it.
    "choice": {"budget": "4 x teacher", "margin": 0.0},
}


@dataclass(frozen=True)
class Done:
    """A whole run: killed once on the way, then finished by the same command."""

    folder: Path
    recipe: Path
    cache: Path
    ledger: Path
    jobs_before_kill: frozenset[str]
    report: dict[str, Any]
    stdout: str
    watch: Any

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SKD_EDGE_CACHE": str(self.cache), "SKD_EDGE_LEDGER": str(self.ledger)}

    def command(self, *words: str, out: Path) -> subprocess.CompletedProcess[str]:
        """The same command in a fresh process, with these words."""
        args = [sys.executable, "-m", "skd_edge.cli", "compress", str(self.recipe), "--out", str(out), *words]
        return subprocess.run(args, capture_output=True, text=True, env=self.environment, timeout=300, check=False)

    def again(self, *words: str, out: Path | None = None) -> dict[str, Any]:
        """The same command once more, in a fresh process; returns the report."""
        done = self.command(*words, out=(out := out or self.folder))
        assert done.returncode == 0, done.stderr
        return json.loads((out / "report.json").read_text())


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, process_watch: Any) -> Done:
    """``skd-edge compress`` of a tiny recipe, killed with SIGKILL after its second job and started again."""
    import yaml

    home = tmp_path_factory.mktemp("compress")
    recipe, folder = home / "recipe.yaml", home / "läufe und runs" / "one"
    recipe.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    watch = process_watch(home / "watch")
    places = {"SKD_EDGE_CACHE": str(home / "cache"), "SKD_EDGE_LEDGER": str(home / "looks.jsonl"), **watch.variables}
    words = [sys.executable, "-m", "skd_edge.cli", "compress", str(recipe), "--out", str(folder)]
    before = _kill_after_jobs(words, folder / "journal.jsonl", 2, places)
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **places}, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "report.json").read_text())
    return Done(folder, recipe, home / "cache", home / "looks.jsonl", before, report, done.stdout, watch)


def _kill_after_jobs(words: list[str], journal: Path, jobs: int, places: dict[str, str]) -> frozenset[str]:
    """Start a run, SIGKILL its whole process group when this many jobs are finished; their hashes."""
    process = subprocess.Popen(
        words, env={**os.environ, **places}, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 200
    try:
        while time.monotonic() < deadline:
            text = journal.read_text(encoding="utf-8") if journal.exists() else ""
            events = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
            finished = [e["job"] for e in events if e["event"] == "job_finished"]
            if len(finished) >= jobs:
                return frozenset(finished)
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            time.sleep(0.02)
        raise AssertionError("no job was finished in time")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def tiny_clips() -> Any:
    """Clips in memory, as a store gives them: 48 training, 20 validation and 20 test clips, ``(N, 4, 16, 16, 3)``."""
    from skd_edge.data.sources.synthetic import render_clip
    from skd_edge.data.store.clip_store import ClipDataset, ClipSplit, SealedSplit

    motions = ("move_left", "move_right", "spin_cw", "blink")

    def split(first: int, count: int, name: str) -> ClipSplit:
        ids = np.arange(first, first + count)
        clips = np.stack([render_clip(motions[i % 4], frames=4, size=16, difficulty=0.0, seed=int(i)) for i in ids])
        return ClipSplit(ids, clips, ids % 4, ids.copy(), tuple(f"{i}.mp4" for i in ids), name)

    return ClipDataset(
        motions, split(0, 48, "train"), split(48, 20, "val"), SealedSplit(split(68, 20, "test")), (), "in memory"
    )
