"""Load scenarios: MLPerf's scenarios, a sweep over batch sizes, and throughput within a latency bound.

The scenarios have the names and metrics of MLPerf Inference. Single-stream: queries of one clip, one after the other;
metric p90. Multi-stream: queries of eight clips; metric p99. Offline: all clips are available at once; metric clips per
second. MLPerf also requires a minimum run (ten minutes; 24,576 clips offline), which a run of seconds does not reach.
Each result therefore reports its clips, its seconds and whether the minimum was met.

`concurrent` is not of MLPerf: one, two and four sessions run single clips at the same time; metric clips per second. On
a GPU each session has a stream of its own, so that copies of one overlap the computation of another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np

from skd_bench.benchmark.latency import LatencyResult, LatencyTarget
from skd_bench.errors import UsageError
from skd_bench.runtimes import registered_runtimes
from skd_bench.stats import Interval, mean_interval

if TYPE_CHECKING:
    from typing import NotRequired  # Python 3.10, which a pack supports, does not have it

SCENARIOS = ("single-stream", "multi-stream", "offline", "concurrent")
_CONCURRENT_STREAMS = (1, 2, 4)
_CLIPS_OF_STREAM = 8  # in a row, without waiting for the other streams
BATCHES = (1, 2, 4, 8, 16)
_STREAMS = 8
_MLPERF_SECONDS, _MLPERF_OFFLINE_CLIPS = 600, 24_576
_MAX_BATCH = 4096


class ScenarioResult(TypedDict):
    """The metric of one scenario with its interval, as a JSON object; None where too few queries were timed.

    `mlperf_floor_met` is whether the run is as long as MLPerf requires. Only streams have `clips_per_query` and
    `queries`, and only offline and concurrent have `batch`.
    """

    metric: str
    value: float | None
    interval: list[float] | None
    clips: int
    seconds: float
    mlperf_floor_met: bool
    clips_per_query: NotRequired[int]
    queries: NotRequired[int]
    batch: NotRequired[int]


class BatchRow(TypedDict):
    """One batch size of a sweep, as a JSON object; `interval` is that of `clips_per_second`."""

    batch: int
    n: int
    p50_ms: float | None
    p50_interval: list[float] | None
    p90_ms: float | None
    p90_interval: list[float] | None
    p99_ms: float | None
    p99_interval: list[float] | None
    clips_per_second: float
    interval: list[float]
    steady: bool


class BoundResult(TypedDict):
    """The batch size with the highest throughput within a latency bound, as a JSON object.

    Where no batch size is within the bound, `batch`, `clips_per_second` and its `interval` are None, and `reason` says
    why.
    """

    bound_ms: float
    metric: str
    batch: int | None
    clips_per_second: float | None
    interval: list[float] | None
    reason: NotRequired[str]


class LoadResult(TypedDict):
    """The results of one target under all requested loads, as a JSON object; `scenarios` is by scenario."""

    scenarios: dict[str, ScenarioResult]
    batches: list[BatchRow]
    bound: BoundResult | None


@dataclass(frozen=True)
class LoadScenarios:
    """What a benchmark measures besides single-stream latency, which it always measures.

    Attributes:
        scenarios: Names from `SCENARIOS`.
        batches: Batch sizes of the sweep, 1 to 4096; where the offline scenario or a bound needs them and none is
            given: `BATCHES`.
        bound_ms: A latency bound in milliseconds for p99 (for p90 where too few queries were timed). The batch size
            with the highest throughput within the bound is reported.
        runtimes: Runtimes that also run each file of the bundle, besides the file's own runtime.
    """

    scenarios: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    bound_ms: float | None = None
    runtimes: list[str] = field(default_factory=list)

    def check_and_complete(self) -> LoadScenarios:
        """Check the values; return a copy without duplicates and with the batch sizes that throughput needs.

        Raises:
            UsageError: A scenario or a runtime is unknown, or a batch size or the bound is out of range.
        """
        if unknown := [r for r in self.runtimes if r not in registered_runtimes()]:
            raise UsageError(f"unknown runtime {unknown[0]!r}; choose from {', '.join(registered_runtimes())}")
        if unknown_scenarios := [s for s in self.scenarios if s not in SCENARIOS]:
            raise UsageError(f"unknown scenario {unknown_scenarios[0]!r}; choose from {', '.join(SCENARIOS)}")
        if out_of_range := [b for b in self.batches if not 1 <= b <= _MAX_BATCH]:
            raise UsageError(f"a batch size must be from 1 to {_MAX_BATCH}, not {out_of_range[0]}")
        if self.bound_ms is not None and not 0 < self.bound_ms < 1e9:
            raise UsageError(f"a latency bound must be above 0 and below 1e9 milliseconds, not {self.bound_ms}")
        needs_batches = self.bound_ms is not None or "offline" in self.scenarios
        batches = sorted(set(self.batches)) or (list(BATCHES) if needs_batches else [])
        scenarios = list(dict.fromkeys(self.scenarios))
        return replace(self, scenarios=scenarios, batches=batches, runtimes=list(dict.fromkeys(self.runtimes)))

    @property
    def load_count(self) -> int:
        """Number of loads that each row is measured under, besides single-stream."""
        once = sum(name in self.scenarios for name in ("multi-stream", "offline"))
        return len(self.batches) + once + len(self.streams)

    @property
    def streams(self) -> tuple[int, ...]:
        """Numbers of sessions that run at the same time; empty without the scenario."""
        return _CONCURRENT_STREAMS if "concurrent" in self.scenarios else ()

    @property
    def clips_per_query(self) -> int:
        """Clips of one query under each load, summed; without single-stream and offline."""
        return sum(self.batches) + _STREAMS * ("multi-stream" in self.scenarios) + _CLIPS_OF_STREAM * sum(self.streams)


def measure_loads(
    targets: Sequence[LatencyTarget],
    extra: LoadScenarios,
    single: dict[str, LatencyResult],
    measure: Callable[[Sequence[LatencyTarget]], dict[str, LatencyResult]],
    largest: Mapping[str, int | None] | None = None,
) -> tuple[dict[str, LoadResult], dict[str, LatencyResult]]:
    """Measure every target under every requested load.

    Args:
        targets: Targets with batch size 1.
        extra: Settings that `LoadScenarios.check_and_complete` returned.
        single: The targets' single-stream latencies, by name.
        measure: `measure_latency` with all options bound; it is called with the targets only.
        largest: The largest batch of a target, by name; larger batches are left out of its rows. Missing or None: any.

    Returns:
        The results by the target's name, and the measured latencies by the name of target and load.
    """
    limits = {name: limit for name, limit in (largest or {}).items() if limit is not None}
    batches = {t.name: [b for b in extra.batches if b <= limits.get(t.name, b)] for t in targets}
    swept = [_make_load_target(t, b) for t in targets for b in batches[t.name]]
    multi_stream = [
        _make_load_target(t, _STREAMS, "multi-stream")
        for t in targets
        if "multi-stream" in extra.scenarios and limits.get(t.name, _STREAMS) >= _STREAMS
    ]
    concurrent = [_make_concurrent_target(t, streams) for t in targets for streams in extra.streams]
    together = [*swept, *multi_stream, *concurrent]
    latencies = measure(together) if together else {}
    rows = {
        t.name: [_make_batch_row(b, latencies[_make_load_target(t, b).name]) for b in batches[t.name]] for t in targets
    }
    offline = {}
    if "offline" in extra.scenarios:
        best = {
            t.name: max(rows[t.name], key=lambda row: row["clips_per_second"])["batch"] for t in targets if rows[t.name]
        }
        offline = {
            t.name: replace(_make_load_target(t, best[t.name], "offline"), without_turns=True)
            for t in targets
            if t.name in best
        }
        latencies |= measure(list(offline.values()))
    figures: dict[str, LoadResult] = {}
    for target in targets:
        scenarios: dict[str, ScenarioResult] = {}
        if "single-stream" in extra.scenarios:
            scenarios["single-stream"] = _summarise_stream(single[target.name], 1, "p90")
        if any(t.name == _make_load_target(target, _STREAMS, "multi-stream").name for t in multi_stream):
            scenarios["multi-stream"] = _summarise_stream(
                latencies[_make_load_target(target, _STREAMS, "multi-stream").name], _STREAMS, "p99"
            )
        for streams in extra.streams:
            load = _make_concurrent_target(target, streams)
            scenarios[f"concurrent {streams}"] = _summarise_throughput(latencies[load.name], load.batch)
        if target.name in offline:
            offline_target = offline[target.name]
            scenarios["offline"] = _summarise_throughput(latencies[offline_target.name], offline_target.batch)
        bound = None if extra.bound_ms is None else find_batch_within_bound(rows[target.name], extra.bound_ms)
        figures[target.name] = {"scenarios": scenarios, "batches": rows[target.name], "bound": bound}
    return figures, latencies


def find_batch_within_bound(rows: Sequence[BatchRow], bound_ms: float) -> BoundResult:
    """The batch size with the highest throughput whose p99 (p90 where too few queries were timed) is within a bound.

    Args:
        rows: The rows of a sweep over batch sizes.
        bound_ms: Milliseconds that a query may take.
    """
    metric: Literal["p99_ms", "p90_ms"] = "p99_ms" if all(row["p99_ms"] is not None for row in rows) else "p90_ms"
    timed_rows = [(latency_ms, row) for row in rows if (latency_ms := row[metric]) is not None]
    rows_within = [row for latency_ms, row in timed_rows if latency_ms <= bound_ms]
    if not rows_within:
        least = min((latency_ms for latency_ms, _ in timed_rows), default=None)
        too_few = "too few queries for p90; measure at least 64"
        reason = too_few if least is None else f"the lowest {metric} is {least:.3g}"
        return {
            "bound_ms": bound_ms,
            "metric": metric,
            "batch": None,
            "clips_per_second": None,
            "interval": None,
            "reason": reason,
        }
    best = max(rows_within, key=lambda row: row["clips_per_second"])
    return {
        "bound_ms": bound_ms,
        "metric": metric,
        "batch": best["batch"],
        "clips_per_second": best["clips_per_second"],
        "interval": best["interval"],
    }


def _make_load_target(target: LatencyTarget, batch: int, scenario: str = "") -> LatencyTarget:
    """The same file under a load. Batch size 8 of a sweep and multi-stream queries are measured separately."""
    return replace(target, name=f"{target.name} [{scenario or 'batch'} {batch}]", batch=batch)


def _make_concurrent_target(target: LatencyTarget, streams: int) -> LatencyTarget:
    batch = streams * _CLIPS_OF_STREAM
    return replace(target, name=f"{target.name} [concurrent {streams}]", batch=batch, streams=streams)


def _make_batch_row(batch: int, latency: LatencyResult) -> BatchRow:
    figures, speed = latency.to_json(), compute_throughput(latency, batch)
    return {
        "batch": batch,
        "n": latency.n,
        "p50_ms": figures["p50_ms"],
        "p50_interval": figures["p50_interval"],
        "p90_ms": figures["p90_ms"],
        "p90_interval": figures["p90_interval"],
        "p99_ms": figures["p99_ms"],
        "p99_interval": figures["p99_interval"],
        "clips_per_second": speed.value,
        "interval": [speed.low, speed.high],
        "steady": latency.steady,
    }


def compute_throughput(latency: LatencyResult, batch: int) -> Interval:
    """Clips per second of queries that follow each other without a break; the interval is over processes.

    Args:
        latency: The latency of queries of that batch size.
        batch: Clips in a query.

    Raises:
        UserError: There are no samples.
    """
    return mean_interval([1000 * batch * len(s) / sum(s) for s in latency.samples_ms if s])


def _summarise_stream(latency: LatencyResult, clips: int, percentile: Literal["p90", "p99"]) -> ScenarioResult:
    interval = latency.p90 if percentile == "p90" else latency.p99
    seconds = _sum_seconds(latency)
    return {
        "metric": f"{percentile}_ms",
        "value": None if interval is None else interval.value,
        "interval": None if interval is None else [interval.low, interval.high],
        "clips_per_query": clips,
        "queries": latency.n,
        "clips": latency.n * clips,
        "seconds": seconds,
        "mlperf_floor_met": seconds >= _MLPERF_SECONDS,
    }


def _summarise_throughput(latency: LatencyResult, batch: int) -> ScenarioResult:
    speed, clips, seconds = compute_throughput(latency, batch), latency.n * batch, _sum_seconds(latency)
    return {
        "metric": "clips_per_second",
        "value": speed.value,
        "interval": [speed.low, speed.high],
        "batch": batch,
        "clips": clips,
        "seconds": seconds,
        "mlperf_floor_met": seconds >= _MLPERF_SECONDS and clips >= _MLPERF_OFFLINE_CLIPS,
    }


def _sum_seconds(latency: LatencyResult) -> float:
    """Seconds of all queries."""
    return float(np.sum([np.sum(s) for s in latency.samples_ms])) / 1000
