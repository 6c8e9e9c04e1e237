"""Load scenarios: MLPerf's scenarios, a sweep over batch sizes, and throughput within a latency bound.

The scenarios have the names and metrics of MLPerf Inference. Single-stream: queries of one clip, one after the other;
metric p90. Multi-stream: queries of eight clips; metric p99. Offline: all clips are available at once; metric clips per
second. MLPerf also requires a minimum run (ten minutes; 24,576 clips offline), which a run of seconds does not reach.
Each result therefore reports its clips, its seconds and whether the minimum was met.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from skd_bench.benchmark.latency import LatencyResult, LatencyTarget
from skd_bench.errors import UsageError
from skd_bench.runtimes import registered_runtimes
from skd_bench.stats import Interval, mean_interval

SCENARIOS = ("single-stream", "multi-stream", "offline")
BATCHES = (1, 2, 4, 8, 16)
_STREAMS = 8
_MLPERF_SECONDS, _MLPERF_OFFLINE_CLIPS = 600, 24_576
_MAX_BATCH = 4096


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
        return len(self.batches) + ("multi-stream" in self.scenarios) + ("offline" in self.scenarios)


def measure_loads(
    targets: Sequence[LatencyTarget],
    extra: LoadScenarios,
    single: dict[str, LatencyResult],
    measure: Callable[..., dict[str, LatencyResult]],
) -> tuple[dict[str, dict[str, Any]], dict[str, LatencyResult]]:
    """Measure every target under every requested load.

    Args:
        targets: Targets with batch size 1.
        extra: Settings that `LoadScenarios.check_and_complete` returned.
        single: The targets' single-stream latencies, by name.
        measure: `measure_latency` with all options bound; it is called with the targets only.

    Returns:
        Two dictionaries. The first has for each target's name `scenarios` (by scenario; each with `metric`, `value`,
        `interval`, and its number of clips and seconds), `batches` (a row for each batch size: `batch`, percentiles,
        `clips_per_second` with its interval) and `bound`. The second has the measured latencies by the name of target
        and load.
    """
    swept = [_make_load_target(t, b) for t in targets for b in extra.batches]
    multi_stream = [
        _make_load_target(t, _STREAMS, "multi-stream") for t in targets if "multi-stream" in extra.scenarios
    ]
    latencies = measure([*swept, *multi_stream]) if swept or multi_stream else {}
    rows = {
        t.name: [_make_batch_row(b, latencies[_make_load_target(t, b).name]) for b in extra.batches] for t in targets
    }
    offline = {}
    if "offline" in extra.scenarios:
        best = {t.name: max(rows[t.name], key=lambda row: row["clips_per_second"])["batch"] for t in targets}
        offline = {t.name: replace(_make_load_target(t, best[t.name], "offline"), without_turns=True) for t in targets}
        latencies |= measure(list(offline.values()))
    figures = {}
    for target in targets:
        scenarios = {}
        if "single-stream" in extra.scenarios:
            scenarios["single-stream"] = _summarise_stream(single[target.name], 1, "p90")
        if "multi-stream" in extra.scenarios:
            scenarios["multi-stream"] = _summarise_stream(
                latencies[_make_load_target(target, _STREAMS, "multi-stream").name], _STREAMS, "p99"
            )
        if target.name in offline:
            offline_target = offline[target.name]
            scenarios["offline"] = _summarise_offline(latencies[offline_target.name], offline_target.batch)
        bound = None if extra.bound_ms is None else find_batch_within_bound(rows[target.name], extra.bound_ms)
        figures[target.name] = {"scenarios": scenarios, "batches": rows[target.name], "bound": bound}
    return figures, latencies


def find_batch_within_bound(rows: Sequence[dict[str, Any]], bound_ms: float) -> dict[str, Any]:
    """The batch size with the highest throughput whose p99 (p90 where too few queries were timed) is within a bound.

    Args:
        rows: The rows of a sweep over batch sizes.
        bound_ms: Milliseconds that a query may take.

    Returns:
        `bound_ms`, `metric`, `batch`, `clips_per_second`, `interval`. Where no batch size is within the bound, the last
        three are None and `reason` says why.
    """
    metric = "p99_ms" if all(row["p99_ms"] is not None for row in rows) else "p90_ms"
    head = {"bound_ms": bound_ms, "metric": metric}
    timed_rows = [row for row in rows if row[metric] is not None]
    rows_within = [row for row in timed_rows if row[metric] <= bound_ms]
    if not rows_within:
        least = min((row[metric] for row in timed_rows), default=None)
        too_few = "too few queries for p90; measure at least 64"
        reason = too_few if least is None else f"the lowest {metric} is {least:.3g}"
        return head | {"batch": None, "clips_per_second": None, "interval": None, "reason": reason}
    best = max(rows_within, key=lambda row: row["clips_per_second"])
    return head | {key: best[key] for key in ("batch", "clips_per_second", "interval")}


def _make_load_target(target: LatencyTarget, batch: int, scenario: str = "") -> LatencyTarget:
    """The same file under a load. Batch size 8 of a sweep and multi-stream queries are measured separately."""
    return replace(target, name=f"{target.name} [{scenario or 'batch'} {batch}]", batch=batch)


def _make_batch_row(batch: int, latency: LatencyResult) -> dict[str, Any]:
    figures = {k: v for k, v in latency.to_json().items() if k.startswith("p") and k not in ("peak_mb", "processes")}
    speed = compute_throughput(latency, batch)
    return {
        "batch": batch,
        "n": latency.n,
        **figures,
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


def _summarise_stream(latency: LatencyResult, clips: int, percentile: str) -> dict[str, Any]:
    interval: Interval | None = getattr(latency, percentile)
    return {
        "metric": f"{percentile}_ms",
        "value": interval and interval.value,
        "interval": interval and [interval.low, interval.high],
        "clips_per_query": clips,
        "queries": latency.n,
        **_summarise_run_length(latency, latency.n * clips, 0),
    }


def _summarise_offline(latency: LatencyResult, batch: int) -> dict[str, Any]:
    speed = compute_throughput(latency, batch)
    return {
        "metric": "clips_per_second",
        "value": speed.value,
        "interval": [speed.low, speed.high],
        "batch": batch,
        **_summarise_run_length(latency, latency.n * batch, _MLPERF_OFFLINE_CLIPS),
    }


def _summarise_run_length(latency: LatencyResult, clips: int, clips_floor: int) -> dict[str, Any]:
    """Clips, seconds, and whether the run is as long as MLPerf requires."""
    seconds = float(np.sum([np.sum(s) for s in latency.samples_ms])) / 1000
    return {
        "clips": clips,
        "seconds": seconds,
        "mlperf_floor_met": seconds >= _MLPERF_SECONDS and clips >= clips_floor,
    }
