"""The measuring process: warm-up, turns, batches and its clock."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest

from skd_bench.benchmark import worker
from skd_bench.benchmark.latency import LatencyTarget, MeasurementSettings, measure_latency
from skd_bench.errors import UserError


def test_targets_run_in_turns_on_random_clips(tmp_path, network):
    targets = [{"name": n, "path": str(network(tmp_path / f"{n}.onnx")), "runtime": "ort"} for n in ("a", "b", "c")]
    job = {"targets": targets, "threads": 1, "queries": 20, "seed": 3}
    rng = np.random.default_rng(3)
    loaded = [worker._load_target(t, 1, 20, rng) for t in targets]
    assert all(np.std(t.clip) > 0.5 for t in loaded)
    assert not np.array_equal(loaded[0].clip, loaded[1].clip)
    turns = []

    class Recorder:
        def __init__(self, name):
            self.name = name

        def run(self, clip):
            turns.append(self.name)

    for target in loaded:
        target.session = Recorder(target.name)
    worker._time_in_turns(loaded, 20, rng)
    assert {n: turns.count(n) for n in "abc"} == dict.fromkeys("abc", 20 + 3)  # one untimed query for each block
    firsts = [turns[i] for i in range(len(turns)) if i == 0 or turns[i] != turns[i - 1]]
    assert len(firsts) >= 7  # blocks alternate: no target runs all its queries at once
    assert worker.run_job(job).keys() == {"targets", "peak_mb"}


def test_a_warm_up_that_does_not_settle_is_reported(monkeypatch):
    now = [0]
    monkeypatch.setattr(worker.time, "perf_counter_ns", lambda: now[0])

    class Slowing:
        calls = 0

        def run(self, clip):
            now[0] += 1000 * 2 ** (self.calls // 8)
            self.calls += 1

    class Settling(Slowing):
        def run(self, clip):
            now[0] += max(9000 - 300 * self.calls, 1000)
            self.calls += 1

    slowing, settling = (
        worker.LoadedTarget("x", s, np.zeros(1), 0, 0, np.zeros(0, np.int64)) for s in (Slowing(), Settling())
    )
    assert worker._warm_up_target(slowing) is False
    assert worker._warm_up_target(settling) is True
    assert settling.session.calls >= 40  # it was still speeding up before


def test_the_worker_needs_only_the_import_path(tmp_path, network):
    """A pack relies on this: the package is not installed, and the current folder does not matter."""
    job, result = tmp_path / "job.json", tmp_path / "result.json"
    target = {"name": "a", "path": str(network(tmp_path / "a.onnx")), "runtime": "ort"}
    job.write_text(json.dumps({"targets": [target], "threads": 1, "queries": 4, "seed": 0}))
    home = os.path.dirname(os.path.dirname(worker.__file__))
    command = [sys.executable, "-P", "-m", "skd_bench.benchmark.worker", str(job), str(result)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": home}, cwd="/", check=True)
    data = json.loads(result.read_text())
    assert len(data["targets"][0]["samples_ns"]) == 4


def test_a_clock_that_goes_backwards_is_reported(tmp_path, network, monkeypatch):
    job = {"targets": [{"name": "a", "path": str(network(tmp_path / "a.onnx")), "runtime": "ort"}], "threads": 1}
    real, calls = worker.time.perf_counter_ns, []

    def jumping():
        calls.append(0)
        return real() - 10**12 * max(len(calls) - 200, 0)  # from then on, it goes further back with each call

    monkeypatch.setattr(worker.time, "perf_counter_ns", jumping)
    with pytest.raises(UserError, match="clock stood still or went backwards during a query of a"):
        worker.run_job(job | {"queries": 400, "seed": 0})


def test_batch_sizes_share_a_session_and_a_target_without_turns_is_not_interrupted(tmp_path, network):
    path = str(network(tmp_path / "a.onnx"))
    targets = [{"name": f"{b}", "path": path, "runtime": "ort", "batch": b, "stretch": b == 4} for b in (1, 4, 2)]
    sessions: dict = {}
    loaded = [worker._load_target(t, 1, 24, np.random.default_rng(0), sessions) for t in targets]
    assert len(sessions) == 1
    assert [len(t.clip) for t in loaded] == [1, 4, 2]
    assert loaded[0].session is loaded[1].session
    turns = []
    for target in loaded:
        target.session = type("Recorder", (), {"run": lambda self, clip: turns.append(len(clip))})()
    worker._time_in_turns(loaded, 24, np.random.default_rng(0))
    assert [turns.count(b) for b in (1, 4, 2)] == [24 + 3, 24 + 1, 24 + 3]
    assert "".join(map(str, turns)).count("4" * 25) == 1
    got = measure_latency(
        [LatencyTarget("x", path, batch=4), LatencyTarget("y", path, batch=4, without_turns=True)],
        MeasurementSettings(processes=1, queries=12),
        memory=False,
    )
    assert [got[n].n for n in "xy"] == [12, 12]


def test_a_network_with_batch_size_1_runs_a_larger_query_clip_by_clip(tmp_path, network):
    path = network(tmp_path / "one.onnx")
    model = onnx.load(path)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "fixed.onnx")
    both = [
        worker._load_target({"name": "x", "path": str(p), "runtime": "ort", "batch": 8}, 1, 1, np.random.default_rng(0))
        for p in (path, tmp_path / "fixed.onnx")
    ]
    answers = [one.session.run(one.clip) for one in both]
    assert answers[0].shape == (8, 3)
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)
