"""Training in two processes: losses equal to those of one process, a whole run, and the division of batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skd_bench.errors import UserError
from skd_edge.distill.distributed import FabricProcessGroup, ProcessGroup, make_process_group
from skd_edge.run_folder import read_journal

STEPS = Path(__file__).parent / "distributed_steps.py"


def test_two_processes_compute_the_losses_of_one(tmp_path):
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for words in ([], run):
        done = subprocess.run(
            [sys.executable, *words, str(STEPS), str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / f"{n}.json").read_text()) for n in (1, 2))
    assert len(one["losses"]) == len(two["losses"]) == 9
    assert {"labels", "logits", "correlation", "distribution"} <= set(one["losses"][-1])
    for a, b in zip(one["losses"], two["losses"], strict=True):
        assert a.keys() == b.keys()
        assert all(abs(a[name] - b[name]) < 1e-5 for name in a), (a, b)
    assert one["losses"][0] != one["losses"][-1]
    assert abs(one["weights"] - two["weights"]) < 1e-3


RECIPE = """
name: team
data: {kind: generated, train: 40, val: 20, test: 20, frames: 4, size: 16}
clip: {frames: 4, size: 16}
teacher: {family: resnet, width: 4, depths: [1, 1]}
students: [{name: small, width: 4, depths: [1, 1]}]
schedule: {controls: []}
training: {teacher_epochs: 2, refine: 0.5, rounds: 1, epochs: 1, batch: 20}
export: {calibration_clips: 16, precisions: [fp32]}
bench: {processes: 1, queries: 70}
"""


def test_a_whole_run_under_torchrun(tmp_path):
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(RECIPE)
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "skd_edge.cli",
        "compress",
        str(recipe),
        "--out",
        str(out),
    ]
    places = {"SKD_EDGE_CACHE": str(tmp_path / "cache"), "SKD_EDGE_LEDGER": str(tmp_path / "looks.jsonl")}
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False, env={**os.environ, **places})
    assert done.returncode == 0, done.stderr[-3000:]
    jobs = [json.loads(path.read_text()) for path in out.glob("jobs/*/job.json")]
    assert len(jobs) == 3
    assert {job["processes"] for job in jobs} == {2}
    assert json.loads((out / "report.json").read_text())["chosen"]["path"] == ["teacher", "small"]
    events = [e["event"] for e in read_journal(out)]
    assert events.count("started") == events.count("finished") == 1  # only one process writes the journal
    assert events.count("job_finished") == 3


def test_a_batch_that_cannot_be_divided_evenly_is_an_error():
    class TwoProcesses:
        global_rank, world_size = 1, 2

    group = FabricProcessGroup(TwoProcesses())
    assert group.shard(np.arange(6)).tolist() == [3, 4, 5]
    with pytest.raises(UserError, match="a batch of 5 clips cannot be divided evenly among 2 processes"):
        group.shard(np.arange(5))


def test_without_torchrun_there_is_a_single_process(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "8")  # set by a cluster scheduler, not by torchrun
    assert type(make_process_group()) is ProcessGroup
