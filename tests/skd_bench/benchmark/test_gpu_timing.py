"""The protocol of a GPU, on a simulated one: its milliseconds are those of its clock."""

from types import SimpleNamespace

import pytest

from skd_bench.benchmark import gpu_timing
from skd_bench.benchmark.gpu_timing import GpuClocks, GpuPlan, time_on_gpu
from skd_bench.benchmark.latency import LatencyTarget, MeasurementSettings, measure_latency
from skd_bench.device.gpu_clock import ClockReading

PLAN = GpuPlan(queries=200, seconds=1.0, warm_seconds=0.2)
FULL_MHZ, FULL_NS = 1800.0, 1_000_000


class SimulatedGpu:
    """One query takes 1 ms at full clock; `clock` gives the clock at a second, and `slowdowns` the reasons."""

    def __init__(self, clock, slowdowns=lambda second: ()):
        self.clock, self.slowdowns, self.now_ns = clock, slowdowns, 0

    @property
    def second(self):
        return self.now_ns / 1e9

    def query(self):
        self.now_ns += int(FULL_NS * FULL_MHZ / (self.clock(self.second) or FULL_MHZ))

    def read(self):
        return ClockReading(self.clock(self.second), self.slowdowns(self.second))


@pytest.fixture
def measure(monkeypatch):
    def run(gpu, plan=PLAN):
        time = SimpleNamespace(perf_counter_ns=lambda: gpu.now_ns, perf_counter=lambda: gpu.second)
        monkeypatch.setattr(gpu_timing, "time", time)
        return time_on_gpu(gpu.query, plan, gpu.read)

    return run


def test_a_steady_clock_is_measured_for_the_planned_time(measure):
    timing = measure(SimulatedGpu(lambda second: FULL_MHZ))
    assert timing.steady
    assert timing.clocks == GpuClocks(FULL_MHZ, FULL_MHZ, FULL_MHZ, FULL_MHZ, blocks=8, dropped=0)
    assert set(timing.samples_ns) == {FULL_NS}
    assert 1000 <= len(timing.samples_ns) <= 1100


def test_the_warm_up_lasts_until_the_clock_has_settled(measure):
    """It rises for 0.8 s, four times as long as the planned warm-up."""
    timing = measure(SimulatedGpu(lambda second: min(600 + 1500 * second, FULL_MHZ)))
    assert timing.steady
    assert max(timing.samples_ns) <= 1.03 * FULL_NS


def test_blocks_around_a_slower_clock_are_dropped_and_measured_again(measure):
    """Also those that lie within the slow time, whose clock is the same before and after."""
    timing = measure(SimulatedGpu(lambda second: 900.0 if 0.6 < second < 1.1 else FULL_MHZ))
    assert timing.steady
    assert timing.clocks.dropped >= 3
    assert timing.clocks.blocks - timing.clocks.dropped >= 8
    assert timing.clocks.reasons == ["the clock drifted"]
    assert set(timing.samples_ns) == {FULL_NS}
    assert timing.clocks.lowest_mhz == FULL_MHZ


def test_a_throttled_gpu_keeps_its_samples_and_is_not_steady(measure):
    hot = SimulatedGpu(lambda second: FULL_MHZ, lambda second: ("hardware thermal slowdown",))
    timing = measure(hot)
    assert not timing.steady
    assert (timing.clocks.blocks, timing.clocks.dropped) == (32, 0)
    assert timing.clocks.reasons == ["hardware thermal slowdown"]
    assert len(timing.samples_ns) >= 1000


def test_a_clock_that_never_settles_is_reported_and_the_measurement_ends(measure):
    timing = measure(SimulatedGpu(lambda second: 900.0 if int(second * 25) % 2 else FULL_MHZ))
    assert not timing.steady
    assert "the clock did not settle within 5 s of warm-up" in timing.clocks.reasons


def test_without_a_clock_times_that_change_are_not_steady(measure):
    class Heating(SimulatedGpu):
        def query(self):
            self.now_ns += int(FULL_NS * (1 + self.second))

    assert measure(SimulatedGpu(lambda second: None)).steady
    timing = measure(Heating(lambda second: None))
    assert not timing.steady
    assert timing.clocks == GpuClocks(None, None, None, None, blocks=timing.clocks.blocks, dropped=0)


def test_clocks_of_several_processes_are_merged():
    parts = [
        GpuClocks(1000, 990, 980, 1000, 8, 0),
        GpuClocks(1010, 1000, 1000, 1020, 10, 2, ["b", "a"]),
        GpuClocks(None, None, None, None, 8, 0, ["a"]),
    ]
    assert GpuClocks.merge(parts) == GpuClocks(1005, 995, 980, 1020, 26, 2, ["a", "b"])


def test_on_the_double_a_drifting_clock_shows_in_the_result(tmp_path, network, tensorrt_double):
    from skd_bench.benchmark.engines.device_job import prepare_targets
    from skd_bench.runtimes.base import CompileOptions

    settings = MeasurementSettings(processes=1, queries=12, seconds=0.05, warm_seconds=0.02)
    source = network(tmp_path / "net.onnx")
    target = [LatencyTarget("gpu", source, "tensorrt"), LatencyTarget("cpu", source)]
    ready = list(prepare_targets(target, tmp_path / "engines", CompileOptions(), settings).ready.values())
    found = measure_latency(ready, settings, memory=False)
    assert found["cpu"].clocks is None
    assert found["gpu"].clocks.before_mhz == found["gpu"].clocks.lowest_mhz == 1000
    assert found["gpu"].clocks.dropped == 0
    tensorrt_double("clock-drift")
    drifted = measure_latency(ready[:1], settings, memory=False)["gpu"]
    assert drifted.clocks.dropped > 0
    assert drifted.clocks.reasons == ["the clock drifted"]
    assert drifted.to_json()["clocks"]["dropped"] == drifted.clocks.dropped
    tensorrt_double("throttle")
    hot = measure_latency(ready[:1], settings, memory=False)["gpu"]
    assert (hot.steady, hot.clocks.reasons) == (False, ["hardware thermal slowdown"])
    tensorrt_double("shared")
    busy = measure_latency(ready[:1], settings, memory=False)["gpu"]
    assert (busy.steady, busy.clocks.reasons) == (False, ["another program uses the GPU"])
