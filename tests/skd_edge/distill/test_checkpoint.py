"""The checkpoint of a job: when it is written, and what happens if it cannot be read."""

from __future__ import annotations

import pytest
import torch

from skd_edge.distill.checkpoint import Checkpoint


def state_of(step):
    return lambda: {"step": step, "weights": torch.arange(3.0)}


def test_a_written_state_is_read_back(tmp_path):
    checkpoint = Checkpoint(tmp_path / "state.pt", interval_seconds=0.0)
    checkpoint.save(state_of(7), last=False)
    state = Checkpoint(tmp_path / "state.pt").load()
    assert state["step"] == 7
    assert torch.equal(state["weights"], torch.arange(3.0))
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_a_state_is_not_even_computed_before_the_interval_is_over(tmp_path):
    def fail():
        raise AssertionError("the state must not be computed")

    checkpoint = Checkpoint(tmp_path / "state.pt", interval_seconds=1e9)
    checkpoint.save(fail, last=False)
    assert checkpoint.load() is None
    checkpoint.save(state_of(1), last=False, now=True)
    assert checkpoint.load()["step"] == 1
    checkpoint.save(fail, last=False)


def test_nothing_is_written_after_the_last_epoch(tmp_path):
    checkpoint = Checkpoint(tmp_path / "state.pt", interval_seconds=0.0)
    checkpoint.save(state_of(1), last=True)
    checkpoint.save(state_of(1), last=True, now=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, b"", b"half a file", "cut", "flip"])
def test_a_missing_or_damaged_file_is_no_state(tmp_path, content):
    checkpoint = Checkpoint(tmp_path / "state.pt", interval_seconds=0.0)
    if content == "cut":
        checkpoint.save(state_of(1), last=False)
        content = checkpoint.path.read_bytes()[:-100]
    if content == "flip":  # one bit of a weight: the file still loads
        checkpoint.save(state_of(1), last=False)
        weights = torch.arange(3.0).numpy().tobytes()
        content = checkpoint.path.read_bytes().replace(weights, weights[:-1] + b"\x41")
    if content is not None:
        checkpoint.path.write_bytes(content)
    assert checkpoint.load() is None


class Malicious:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_code_in_a_file_is_not_executed(tmp_path):
    checkpoint = Checkpoint(tmp_path / "state.pt")
    torch.save({"step": Malicious(tmp_path / "executed")}, checkpoint.path)
    assert checkpoint.load() is None
    assert not (tmp_path / "executed").exists()
