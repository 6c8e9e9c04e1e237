"""Two processes train one leg as one does: the same loss at every step, those over the whole batch included."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skd_bench.errors import UserError
from skd_edge.distill.team import FabricTeam, Team, team_of

STEPS = Path(__file__).parent / "team_steps.py"


def test_two_processes_have_the_losses_of_one(tmp_path):
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


def test_a_batch_that_cannot_be_divided(monkeypatch):
    class Two:
        global_rank, world_size = 1, 2

    team = FabricTeam(Two())
    assert team.part(np.arange(6)).tolist() == [3, 4, 5]
    with pytest.raises(UserError, match="a batch of 5 clips cannot be divided evenly among 2 processes"):
        team.part(np.arange(5))


def test_without_torchrun_a_team_of_one(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "8")  # some cluster's, not torchrun's
    assert type(team_of()) is Team
