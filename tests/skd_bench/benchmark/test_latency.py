"""Latency in fresh processes, and energy before them."""

import json
import sys
import time

import onnx
import pytest

from skd_bench.benchmark import worker
from skd_bench.benchmark.latency import LatencyTarget, MeasurementSettings, measure_latency
from skd_bench.device.energy.meter import EnergyMeter, open_energy_meter
from skd_bench.errors import UserError
from skd_bench.runtimes.ort import OrtSession


def test_every_target_is_measured_in_fresh_processes(tmp_path, network, monkeypatch):
    small = network(tmp_path / "small ü.onnx")
    large = network(tmp_path / "large.onnx", shape=(3, 16, 96, 96))
    (tmp_path / "random.py").write_text("raise SystemExit('a file of the current folder was imported')")
    monkeypatch.chdir(tmp_path)
    steps = []
    got = measure_latency(
        [LatencyTarget("small", "small ü.onnx"), LatencyTarget("large", large, "ort")],
        MeasurementSettings(processes=2, queries=35),
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(i, 4) for i in range(5)]
    assert list(got) == ["small", "large"]
    for name, latency in got.items():
        assert latency.name == name
        assert [len(s) for s in latency.samples_ms] == [35, 35]
        assert latency.n == 70
        assert all(x > 0 for s in latency.samples_ms for x in s)
        assert latency.p50.low <= latency.p50.value <= latency.p50.high <= latency.p90.high
        assert latency.p99 is None
        assert latency.load_ms > 0
        assert latency.first_ms > 0
        assert 10 < latency.peak_mb < 400
    assert got["large"].peak_mb > got["small"].peak_mb
    assert small.exists()
    data = json.loads(json.dumps(got["small"].to_json()))
    assert data["p99_ms"] is data["p99_interval"] is None
    assert data["p50_interval"] == [got["small"].p50.low, got["small"].p50.high]
    assert (data["n"], data["processes"]) == (70, 2)


def test_memory_is_optional(tmp_path, network):
    target = LatencyTarget("a", network(tmp_path / "a.onnx"))
    got = measure_latency([target], MeasurementSettings(processes=1, queries=9), memory=False)
    assert got["a"].peak_mb is None
    assert got["a"].p50 is None  # nine samples are too few for a median


def test_targets_that_cannot_be_measured_are_reported(tmp_path, network):
    good = network(tmp_path / "good.onnx")
    bad = tmp_path / "bad.onnx"
    bad.write_text("no model")
    with pytest.raises(UserError, match=r"cannot load .*bad\.onnx"):
        measure_latency(
            [LatencyTarget("good", good), LatencyTarget("bad", bad)], MeasurementSettings(processes=1, queries=5)
        )
    with pytest.raises(UserError, match=r"the artefact .*gone\.onnx does not exist"):
        measure_latency([LatencyTarget("gone", tmp_path / "gone.onnx")], MeasurementSettings(processes=1, queries=5))
    with pytest.raises(UserError, match="unknown runtime 'abacus'"):
        measure_latency([LatencyTarget("odd", good, "abacus")], MeasurementSettings(processes=1, queries=5))
    with pytest.raises(UserError, match="two targets are called 'x'"):
        measure_latency([LatencyTarget("x", good), LatencyTarget("x", good)], MeasurementSettings())
    with pytest.raises(UserError, match="must be at least 1"):
        measure_latency([LatencyTarget("x", good)], MeasurementSettings(queries=0))
    assert measure_latency([], MeasurementSettings()) == {}


def test_a_network_with_a_dynamic_clip_length_is_refused(tmp_path, network):
    path = network(tmp_path / "open.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "time"
    onnx.save(model, path)
    with pytest.raises(UserError, match="fixed number of frames and a fixed size"):
        measure_latency([LatencyTarget("open", path)], MeasurementSettings(processes=1, queries=5))


def test_a_killed_worker_is_reported(tmp_path, network, monkeypatch):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'shutting down' >&2\nkill -9 $$\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(UserError, match=r"killed by signal 9.*shutting down"):
        measure_latency([LatencyTarget("a", network(tmp_path / "a.onnx"))], MeasurementSettings(processes=1, queries=5))


class FakeRail:
    """A rail that uses two watts, and half a joule more for each query."""

    rail = "a fake rail"

    def __init__(self):
        self.at, self.queries = time.perf_counter(), 0

    def read_joules_delta(self):
        now = time.perf_counter()
        joules, self.at, self.queries = 2 * (now - self.at) + 0.5 * self.queries, now, 0
        return joules


def test_energy_is_measured_first_and_only_where_requested(tmp_path, network, monkeypatch):
    targets = [LatencyTarget("a", network(tmp_path / "a.onnx")), LatencyTarget("b", network(tmp_path / "b.onnx"))]
    jobs, rail = [], FakeRail()

    def run(job):
        jobs.append((len(job["targets"]), job.get("energy_s")))
        short = job | ({"energy_s": 0.05} if "energy_s" in job else {})
        return worker.run_job(short, lambda: EnergyMeter([rail]))

    real = OrtSession.run

    def counted(self, x):
        rail.queries += 1
        return real(self, x)

    monkeypatch.setattr(OrtSession, "run", counted)
    got = measure_latency(targets, MeasurementSettings(processes=2, queries=12, energy=True), memory=False, run_job=run)
    assert jobs == [(1, 10.0), (1, 10.0), (2, None), (2, None)]
    for latency in got.values():
        assert latency.joules.value == pytest.approx(0.5, rel=0.2)  # half a joule per query above the idle power
        assert latency.joules.low <= latency.joules.value <= latency.joules.high
        assert latency.n == 24
        assert latency.to_json()["joules_per_clip"] == latency.joules.value
    plain = measure_latency(targets, MeasurementSettings(processes=1, queries=12), memory=False, run_job=run)
    assert all(latency.joules is None for latency in plain.values())
    assert "joules_per_clip" not in plain["a"].to_json()


def test_a_missing_energy_meter_is_reported_before_measuring(tmp_path, network):
    jobs = []

    def run(job):
        jobs.append(job)
        return worker.run_job(job, lambda: open_energy_meter(tmp_path, hwmon=tmp_path, nvml=None))

    with pytest.raises(UserError, match="energy: not measurable here: no processor package counter"):
        measure_latency(
            [LatencyTarget("a", network(tmp_path / "a.onnx"))], MeasurementSettings(energy=True), run_job=run
        )
    assert len(jobs) == 1
