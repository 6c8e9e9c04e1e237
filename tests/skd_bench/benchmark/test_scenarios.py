"""Load scenarios: their settings, and the throughput, percentiles and bound computed from samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.benchmark.latency import LatencyResult, LatencyTarget
from skd_bench.benchmark.scenarios import (
    BATCHES,
    LoadScenarios,
    compute_throughput,
    find_batch_within_bound,
    measure_loads,
)
from skd_bench.errors import UsageError
from skd_bench.stats import percentile_interval


def latency(name: str, *processes: list[float]) -> LatencyResult:
    samples = [np.array(p) for p in processes]
    p50, p90, p99 = (percentile_interval(samples, q, resamples=50) for q in (50, 90, 99))
    return LatencyResult(
        name, [list(p) for p in processes], p50, p90, p99, sum(map(len, processes)), 1.0, 1.0, True, None
    )


def recorder(requested: list):
    """A machine where a query takes 1 ms, and 1 ms more for every two clips."""

    def measure(targets):
        requested.append(targets)
        return {t.name: latency(t.name, [1 + t.batch / 2] * 400, [1 + t.batch / 2] * 400) for t in targets}

    return measure


def test_load_settings_are_checked_and_completed():
    assert LoadScenarios().check_and_complete() == LoadScenarios()
    assert LoadScenarios(bound_ms=5).check_and_complete().batches == list(BATCHES)
    assert LoadScenarios(["offline", "offline"], [4, 1, 4]).check_and_complete() == LoadScenarios(["offline"], [1, 4])
    for wrong in (
        LoadScenarios(["server"]),
        LoadScenarios(batches=[0]),
        LoadScenarios(batches=[5000]),
        LoadScenarios(bound_ms=0.0),
    ):
        with pytest.raises(UsageError, match="choose from single-stream" if wrong.scenarios else "must be"):
            wrong.check_and_complete()


def test_every_load_is_measured_and_offline_uses_the_best_batch_size():
    requested: list = []
    targets = [LatencyTarget("a", "a.onnx"), LatencyTarget("b", "b.onnx", "openvino")]
    single = {t.name: latency(t.name, [1.5] * 400, [1.5] * 400) for t in targets}
    extra = LoadScenarios(["single-stream", "multi-stream", "offline"], [1, 4, 8], bound_ms=3.5).check_and_complete()
    facts, found = measure_loads(targets, extra, single, recorder(requested))
    in_turns, stretches = requested
    assert sorted((t.path, t.batch) for t in in_turns) == sorted(
        2 * [("a.onnx", 8), ("b.onnx", 8)] + [(f"{n}.onnx", b) for n in "ab" for b in (1, 4)]
    )
    assert not any(t.without_turns for t in in_turns)
    assert [(t.path, t.runtime, t.batch, t.without_turns) for t in stretches] == [
        ("a.onnx", "ort", 8, True),
        ("b.onnx", "openvino", 8, True),
    ]
    assert len(found) == len(in_turns) + len(stretches)
    got = facts["a"]
    assert [row["batch"] for row in got["batches"]] == [1, 4, 8]
    assert got["batches"][1]["clips_per_second"] == pytest.approx(4000 / 3)
    assert got["bound"]["batch"] == 4
    assert got["bound"]["metric"] == "p99_ms"
    scenarios = got["scenarios"]
    assert (scenarios["single-stream"]["metric"], scenarios["single-stream"]["value"]) == ("p90_ms", 1.5)
    assert (scenarios["multi-stream"]["metric"], scenarios["multi-stream"]["value"]) == ("p99_ms", 5.0)
    assert scenarios["multi-stream"]["clips"] == 8 * 800
    assert scenarios["offline"]["value"] == pytest.approx(1600)
    assert not any(s["mlperf_floor_met"] for s in scenarios.values())


def test_only_requested_loads_are_measured():
    requested: list = []
    single = {"a": latency("a", [1.0] * 20)}
    assert measure_loads([LatencyTarget("a", "a.onnx")], LoadScenarios(), single, recorder(requested))[1] == {}
    assert requested == []


def test_throughput_is_clips_per_second_with_an_interval_over_processes():
    speed = compute_throughput(latency("a", [2.0] * 10, [4.0] * 10), 8)
    assert speed.value == pytest.approx((4000 + 2000) / 2)
    assert 2000 <= speed.low <= speed.value <= speed.high <= 4000


rows = st.lists(
    st.tuples(st.floats(0.1, 100), st.floats(1, 1e5)).map(
        lambda p: {"batch": 1, "p90_ms": p[0], "p99_ms": p[0], "clips_per_second": p[1], "interval": [p[1], p[1]]}
    ),
    min_size=1,
    max_size=6,
)


@given(rows, st.floats(0.1, 100))
def test_the_best_batch_is_within_the_bound_and_the_fastest_there(swept, bound):
    best = find_batch_within_bound(swept, bound)
    within = [row["clips_per_second"] for row in swept if row["p99_ms"] <= bound]
    assert best["clips_per_second"] == max(within, default=None)
    assert ("reason" in best) == (not within)


def test_a_bound_needs_enough_queries():
    few = {"batch": 1, "p90_ms": None, "p99_ms": None, "clips_per_second": 5.0, "interval": [5.0, 5.0]}
    assert "64" in find_batch_within_bound([few], 10)["reason"]
    some = few | {"p90_ms": 3.0}
    assert find_batch_within_bound([some], 10) == {
        "bound_ms": 10,
        "metric": "p90_ms",
        "batch": 1,
        "clips_per_second": 5.0,
        "interval": [5.0, 5.0],
    }
