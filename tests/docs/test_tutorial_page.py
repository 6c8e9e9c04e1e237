"""A stranger's path: the commands of docs/tutorial.md, run as they stand, in order, on a tiny set.

What differs from what a reader types: fewer clips, one epoch, one student. Beside the made videos lie what a camera's
folder holds: camera videos where this machine has some, a file that is no video, and a copy of a checked clip.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from skd_edge.recipe.loader import load_recipe

ROOT = Path(__file__).resolve().parents[2]
CAMERA = ROOT.parent / "shared" / "data" / "decode" / "asl"
BLOCKS = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs/tutorial.md").read_text(encoding="utf-8"), re.M | re.S)
TINY = (
    "students=[{name: narrow, width: 8}]",
    "assistants=[]",
    "teacher.width=8",
    "clip.size=16",
    "clip.frames=4",
    "training.teacher_epochs=2",
    "training.epochs=1",
    "training.rounds=1",
    "schedule.controls=[]",
    "export.precisions=[fp32]",
    "bench.processes=1",
    "bench.queries=24",
    "choice.budget=null",
)
SETS = " ".join(f"--set {shlex.quote(setting)}" for setting in TINY)


def typed(line: str) -> str:
    """A line of the page as this test types it."""
    if line.startswith(("skd-edge compress", "skd-edge labels audit", "skd-edge plan")):
        return f"{line} {SETS} --jobs 1"
    return re.sub(r"--train \d+ --val \d+ --test \d+", "--train 60 --val 40 --test 10", line)


def add_what_a_folder_holds(videos: Path, checked: Path) -> None:
    """Videos from a camera where there are some, a file that is none, and a copy of a checked clip."""
    if CAMERA.is_dir():
        (videos / "camera").mkdir()
        for name in ("again.mkv", "book.mkv", "walk.mkv"):
            shutil.copy(CAMERA / name, videos / "camera")
    (videos / "IMG_0007.mp4").write_bytes(b"not a video")
    shutil.copy(min(checked.glob("orbit/*.mp4")), videos / "looked at.mp4")


@pytest.fixture(scope="module")
def walked(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """The folder in which the commands were typed, and what each block printed, by its first command."""
    home = tmp_path_factory.mktemp("tutorial")
    folder = home / "a stranger's folder"
    folder.mkdir()
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "PYTHONPATH"))},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "SKD_EDGE_CACHE": str(home / "cache"),
        "SKD_EDGE_LEDGER": str(home / "looks.jsonl"),
    }
    printed = {}
    for block in BLOCKS:
        script = "\n".join(["set -euo pipefail", *map(typed, block.splitlines())])
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        assert "Traceback" not in done.stderr
        printed[" ".join(block.split()[:2])] = done.stdout + done.stderr
        if "data generate" in block:
            add_what_a_folder_holds(folder / "videos", folder / "checked")
    return folder, printed


def test_the_page_has_every_step():
    commands = re.findall(r"^skd-edge (labels audit|data generate|\w+)", "".join(BLOCKS), re.M)
    assert commands == [
        *("data generate", "init", "validate", "plan", "labels audit", "compress", "predict", "verify", "report")
    ]


def test_init_names_what_each_rule_labels(walked):
    folder, printed = walked
    assert "4  orbit checked; the keyword 'orbit' labels 6 videos" in printed["skd-edge init"]
    assert "warning: 10 classes have fewer than 10 checked clips" in printed["skd-edge init"]
    assert "no video has the keyword" not in printed["skd-edge init"]
    assert len(load_recipe(folder / "motion.yaml").labels.rules) == 10


def test_what_cannot_be_trained_on_is_left_out_and_named(walked):
    folder, printed = walked
    assert "; 1 unreadable" in printed["skd-edge compress"]
    data = json.loads((folder / "runs/videos/report.json").read_text())["data"]
    assert [clip["path"] for clip in data["quarantined"]] == ["IMG_0007.mp4"]
    assert (
        "1 unlabelled videos are copies of validation or test clips and were left out (first: looked at.mp4)"
        in (data["split_note"])
    )
    assert data["train"] == 60 + (3 if CAMERA.is_dir() else 0)
    assert data["val"] + data["test"] == 40
    assert data["copies"] == []


def test_the_decisions_of_the_audit_are_used(walked):
    folder, printed = walked
    with (folder / "trusted.csv").open(newline="") as file:
        decided = [row for row in csv.DictReader(file) if row["trusted"]]
    assert len(decided) == 2
    assert all(row["trusted"] == row["label"] for row in decided)
    assert "2 labels checked by a person" in printed["skd-edge compress"]


def test_every_new_video_is_predicted(walked):
    folder, printed = walked
    lines = [line for line in printed["skd-edge predict"].splitlines() if line.startswith("new/")]
    assert len(lines) == len(list(folder.glob("new/*/*.mp4"))) == 10
    assert "runs/videos/bundle: ok" in printed["skd-edge predict"]
    assert "runs/videos/report.html" in printed["skd-edge predict"]
