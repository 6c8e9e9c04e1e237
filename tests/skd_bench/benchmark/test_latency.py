import json
import os
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest

from skd_bench.benchmark import worker
from skd_bench.benchmark.latency import LatencyTarget, measure_latency
from skd_bench.device.energy.meter import EnergyMeter, open_energy_meter
from skd_bench.errors import UserError
from skd_bench.runtimes.ort import OrtSession


def test_every_target_is_measured_in_fresh_processes(tmp_path, network, monkeypatch):
    small = network(tmp_path / "small ü.onnx")
    large = network(tmp_path / "large.onnx", shape=(3, 16, 96, 96))
    (tmp_path / "random.py").write_text("raise SystemExit('a file of the user was imported')")
    monkeypatch.chdir(tmp_path)
    steps = []
    got = measure_latency(
        [LatencyTarget("small", "small ü.onnx"), LatencyTarget("large", large, "ort")],
        threads=1,
        processes=2,
        queries=35,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(i, 4) for i in range(5)]
    assert list(got) == ["small", "large"]
    for name, figures in got.items():
        assert figures.name == name
        assert [len(s) for s in figures.samples_ms] == [35, 35]
        assert figures.n == 70
        assert all(x > 0 for s in figures.samples_ms for x in s)
        assert figures.p50.low <= figures.p50.value <= figures.p50.high <= figures.p90.high
        assert figures.p99 is None
        assert figures.load_ms > 0
        assert figures.first_ms > 0
        assert 10 < figures.peak_mb < 400
    assert got["large"].peak_mb > got["small"].peak_mb
    assert small.exists()
    data = json.loads(json.dumps(got["small"].to_json()))
    assert data["p99_ms"] is data["p99_interval"] is None
    assert data["p50_interval"] == [got["small"].p50.low, got["small"].p50.high]
    assert (data["n"], data["processes"]) == (70, 2)


def test_memory_is_optional(tmp_path, network):
    target = LatencyTarget("a", network(tmp_path / "a.onnx"))
    got = measure_latency([target], threads=1, processes=1, queries=9, memory=False)
    assert got["a"].peak_mb is None
    assert got["a"].p50 is None  # nine samples carry no median


def test_what_cannot_be_measured_is_told(tmp_path, network):
    good = network(tmp_path / "good.onnx")
    bad = tmp_path / "bad.onnx"
    bad.write_text("no model")
    with pytest.raises(UserError, match=r"cannot load .*bad\.onnx"):
        measure_latency([LatencyTarget("good", good), LatencyTarget("bad", bad)], threads=1, processes=1, queries=5)
    with pytest.raises(UserError, match="there is no artefact"):
        measure_latency([LatencyTarget("gone", tmp_path / "gone.onnx")], threads=1, processes=1, queries=5)
    with pytest.raises(UserError, match="no runtime 'abacus'"):
        measure_latency([LatencyTarget("odd", good, "abacus")], threads=1, processes=1, queries=5)
    with pytest.raises(UserError, match="two targets are called 'x'"):
        measure_latency([LatencyTarget("x", good), LatencyTarget("x", good)], threads=1)
    with pytest.raises(UserError, match="start at 1"):
        measure_latency([LatencyTarget("x", good)], threads=1, queries=0)
    assert measure_latency([], threads=1) == {}


def test_a_clip_of_open_length_is_told(tmp_path, network):
    path = network(tmp_path / "open.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "time"
    onnx.save(model, path)
    with pytest.raises(UserError, match="fixed frames and size"):
        measure_latency([LatencyTarget("open", path)], threads=1, processes=1, queries=5)


def test_a_killed_worker_is_told(tmp_path, network, monkeypatch):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'going down' >&2\nkill -9 $$\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(UserError, match=r"killed by signal 9.*going down"):
        measure_latency([LatencyTarget("a", network(tmp_path / "a.onnx"))], threads=1, processes=1, queries=5)


def test_the_worker_takes_turns_and_reads_random_content(tmp_path, network):
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
    assert len(firsts) >= 7  # blocks alternate; nobody runs alone
    assert worker.run_job(job).keys() == {"targets", "peak_mb"}


def test_a_restless_target_is_called_so(monkeypatch):
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
        worker._LoadedTarget("x", s, np.zeros(1), 0, 0, np.zeros(0, np.int64)) for s in (Slowing(), Settling())
    )
    assert worker._warm_up_target(slowing) is False
    assert worker._warm_up_target(settling) is True
    assert settling.session.calls >= 40  # it was still speeding up before


def test_the_worker_needs_only_the_path(tmp_path, network):
    """No install, no current folder: what a travelling zip relies on."""
    job, result = tmp_path / "job.json", tmp_path / "result.json"
    target = {"name": "a", "path": str(network(tmp_path / "a.onnx")), "runtime": "ort"}
    job.write_text(json.dumps({"targets": [target], "threads": 1, "queries": 4, "seed": 0}))
    home = os.path.dirname(os.path.dirname(worker.__file__))
    command = [sys.executable, "-P", "-m", "skd_bench.benchmark.worker", str(job), str(result)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": home}, cwd="/", check=True)
    data = json.loads(result.read_text())
    assert len(data["targets"][0]["samples_ns"]) == 4


def test_a_clock_that_goes_backwards_is_told(tmp_path, network, monkeypatch):
    job = {"targets": [{"name": "a", "path": str(network(tmp_path / "a.onnx")), "runtime": "ort"}], "threads": 1}
    real, calls = worker.time.perf_counter_ns, []

    def jumping():
        calls.append(0)
        return real() - 10**12 * max(len(calls) - 200, 0)  # from then on, further at every look

    monkeypatch.setattr(worker.time, "perf_counter_ns", jumping)
    with pytest.raises(UserError, match="clock stood still or went backwards during a query of a"):
        worker.run_job(job | {"queries": 400, "seed": 0})


def test_queries_of_several_clips_share_a_session_and_a_stretch_is_not_interrupted(tmp_path, network):
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
        threads=1,
        processes=1,
        queries=12,
        memory=False,
    )
    assert [got[n].n for n in "xy"] == [12, 12]


def test_a_network_of_one_clip_answers_a_larger_query_one_by_one(tmp_path, network):
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


class Lamp:
    """A rail that draws two watts, and half a joule more for each query."""

    rail = "a lamp"

    def __init__(self):
        self.at, self.queries = time.perf_counter(), 0

    def read_joules_delta(self):
        now = time.perf_counter()
        joules, self.at, self.queries = 2 * (now - self.at) + 0.5 * self.queries, now, 0
        return joules


def test_joules_come_first_and_only_where_asked(tmp_path, network, monkeypatch):
    targets = [LatencyTarget("a", network(tmp_path / "a.onnx")), LatencyTarget("b", network(tmp_path / "b.onnx"))]
    jobs, lamp = [], Lamp()

    def run(job):
        jobs.append((len(job["targets"]), job.get("energy_s")))
        short = job | ({"energy_s": 0.05} if "energy_s" in job else {})
        return worker.run_job(short, lambda: EnergyMeter([lamp]))

    real = OrtSession.run

    def counted(self, x):
        lamp.queries += 1
        return real(self, x)

    monkeypatch.setattr(OrtSession, "run", counted)
    got = measure_latency(targets, threads=1, processes=2, queries=12, memory=False, energy=True, run_job=run)
    assert jobs == [(1, 10.0), (1, 10.0), (2, None), (2, None)]
    for figures in got.values():
        assert figures.joules.value == pytest.approx(0.5, rel=0.2)  # half a joule a query, the idle lamp taken off
        assert figures.joules.low <= figures.joules.value <= figures.joules.high
        assert figures.n == 24
        assert figures.to_json()["joules_per_clip"] == figures.joules.value
    plain = measure_latency(targets, threads=1, processes=1, queries=12, memory=False, run_job=run)
    assert all(figures.joules is None for figures in plain.values())
    assert "joules_per_clip" not in plain["a"].to_json()


def test_a_machine_without_a_meter_says_so_before_it_measures(tmp_path, network):
    jobs = []

    def run(job):
        jobs.append(job)
        return worker.run_job(job, lambda: open_energy_meter(tmp_path, hwmon=tmp_path, nvml=None))

    with pytest.raises(UserError, match="joules: not measurable here: no processor package counter"):
        measure_latency([LatencyTarget("a", network(tmp_path / "a.onnx"))], threads=1, energy=True, run_job=run)
    assert len(jobs) == 1
