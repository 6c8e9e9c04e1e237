"""Sessions that run at the same time: all clips, in their order, and really at the same time."""

import threading

import numpy as np
import pytest

from skd_bench.benchmark import worker
from skd_bench.benchmark.concurrent_sessions import ConcurrentSessions
from skd_bench.benchmark.latency import LatencyTarget, MeasurementSettings, measure_latency
from skd_bench.benchmark.scenarios import LoadScenarios, measure_loads
from skd_bench.errors import UserError
from skd_bench.runtimes import find_runtime


class MeetingSession:
    """Its query ends only while every other session is in a query too."""

    input = output = None

    def __init__(self, barrier):
        self.barrier, self.closed, self.batches = barrier, False, []

    def runtime_info(self):
        return {}

    def run(self, x):
        self.batches.append(len(x))
        self.barrier.wait(timeout=20)
        return x.astype(np.float32)

    def close(self):
        self.closed = True


def test_every_session_runs_its_clips_while_the_others_run():
    meeting = [MeetingSession(barrier) for barrier in [threading.Barrier(3)] * 3]
    together = ConcurrentSessions(meeting)
    x = np.arange(6)[:, None]
    np.testing.assert_array_equal(together.run(x), x)
    assert [session.batches for session in meeting] == [[1, 1]] * 3
    together.close()
    assert all(session.closed for session in meeting)


def test_the_error_of_one_session_is_raised():
    class Failing(MeetingSession):
        def run(self, x):
            raise UserError("the GPU is gone")

    together = ConcurrentSessions([Failing(None), Failing(None)])
    with pytest.raises(UserError, match="the GPU is gone"):
        together.run(np.zeros((4, 1)))
    together.close()


def test_answers_are_those_of_single_clips(tmp_path, network):
    path = str(network(tmp_path / "a.onnx"))
    rng = np.random.default_rng(0)
    loaded = worker._load_target({"name": "x", "path": path, "runtime": "ort", "batch": 16, "streams": 2}, 1, 1, rng)
    expected = find_runtime("ort").load(path, threads=1).run(loaded.clip)
    np.testing.assert_allclose(loaded.session.run(loaded.clip), expected, atol=1e-6)
    loaded.session.close()


def test_the_scenario_counts_clips_of_one_two_and_four_streams(tmp_path, network, tensorrt_double):
    from skd_bench.runtimes.base import CompileOptions

    settings = MeasurementSettings(processes=1, queries=20, seconds=0.0, warm_seconds=0.01)
    source = network(tmp_path / "net.onnx")
    engine = find_runtime("tensorrt").compile(source, tmp_path / "engines", CompileOptions())
    targets = [LatencyTarget("cpu", source), LatencyTarget("gpu", engine, "tensorrt")]
    extra = LoadScenarios(["concurrent"]).check_and_complete()
    assert (extra.load_count, extra.clips_per_query) == (3, 8 + 16 + 32)
    figures, latencies = measure_loads(
        targets, extra, {}, lambda wanted: measure_latency(wanted, settings, memory=False), {"gpu": 1}
    )
    for target in targets:
        rows = figures[target.name]["scenarios"]
        assert {name: row["batch"] for name, row in rows.items()} == {
            "concurrent 1": 8,
            "concurrent 2": 16,
            "concurrent 4": 32,
        }
        for name, row in rows.items():
            spent = sum(latencies[f"{target.name} [{name}]"].samples_ms[0]) / 1000
            assert row["metric"] == "clips_per_second"
            assert row["value"] == pytest.approx(row["clips"] / spent)
