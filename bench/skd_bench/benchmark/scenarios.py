"""More than one clip at a time: MLPerf's scenarios, a sweep over batch sizes, throughput at a latency bound.

Scenarios are MLPerf Inference's, by name and metric. Single-stream: one clip, the next query when the last is done,
p90. Multi-stream: queries of eight clips, p99. Offline: all clips at hand, clips a second. MLPerf's floors (ten
minutes; 24,576 clips offline) are not met by a run of seconds: each figure says what it rests on.
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
    """What is measured beside single-stream latency, which always is.

    Attributes:
        scenarios: Of `SCENARIOS`.
        batches: Clips in a query, a row each; where throughput is asked and none is named: `BATCHES`.
        bound_ms: A latency that 99 of 100 queries must keep (p90 where too few were timed): the batch of the highest
            throughput within it is looked for.
        runtimes: Runtimes that run each file of the bundle too, besides the one it is for.
    """

    scenarios: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    bound_ms: float | None = None
    runtimes: list[str] = field(default_factory=list)

    def check_and_complete(self) -> LoadScenarios:
        """The same, each thing once, with the batches that throughput needs.

        Raises:
            UsageError: A scenario or a runtime is unknown, or a batch or the bound is out of range.
        """
        if unknown := [r for r in self.runtimes if r not in registered_runtimes()]:
            raise UsageError(f"there is no runtime {unknown[0]!r}; there are: {', '.join(registered_runtimes())}")
        if unknown_scenarios := [s for s in self.scenarios if s not in SCENARIOS]:
            raise UsageError(f"there is no scenario {unknown_scenarios[0]!r}; there are: {', '.join(SCENARIOS)}")
        if out_of_range := [b for b in self.batches if not 1 <= b <= _MAX_BATCH]:
            raise UsageError(f"a query of {out_of_range[0]} clips cannot be; batches are 1 to {_MAX_BATCH}")
        if self.bound_ms is not None and not 0 < self.bound_ms < 1e9:
            raise UsageError(f"a bound of {self.bound_ms} ms cannot be kept; it is milliseconds above 0")
        needs_batches = self.bound_ms is not None or "offline" in self.scenarios
        batches = sorted(set(self.batches)) or (list(BATCHES) if needs_batches else [])
        scenarios = list(dict.fromkeys(self.scenarios))
        return replace(self, scenarios=scenarios, batches=batches, runtimes=list(dict.fromkeys(self.runtimes)))

    @property
    def load_count(self) -> int:
        """How many further loads each row is measured under."""
        return len(self.batches) + ("multi-stream" in self.scenarios) + ("offline" in self.scenarios)


def measure_loads(
    targets: Sequence[LatencyTarget],
    extra: LoadScenarios,
    single: dict[str, LatencyResult],
    measure: Callable[..., dict[str, LatencyResult]],
) -> tuple[dict[str, dict[str, Any]], dict[str, LatencyResult]]:
    """Measure every target under every load that is asked.

    Args:
        targets: With batch 1.
        extra: Checked.
        single: The targets' single-stream latencies, by name.
        measure: As `latency.measure_latency`, called with targets alone.

    Returns:
        For each target by its name: `scenarios` (by name; each with `metric`, `value`, `interval`, and what it rests
        on), `batches` (a row each: `batch`, percentiles, `clips_per_second` with its interval) and `bound`; and the
        latencies behind them, by names of their own.
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
    """The batch of the highest throughput whose p99 (p90 where too few queries were timed) keeps a bound.

    Args:
        rows: Of a sweep over batches.
        bound_ms: Milliseconds a query may take.

    Returns:
        `bound_ms`, `metric`, `batch`, `clips_per_second`, `interval`; the last three None, with a `reason`, where no
        batch keeps it.
    """
    metric = "p99_ms" if all(row["p99_ms"] is not None for row in rows) else "p90_ms"
    head = {"bound_ms": bound_ms, "metric": metric}
    timed_rows = [row for row in rows if row[metric] is not None]
    rows_within = [row for row in timed_rows if row[metric] <= bound_ms]
    if not rows_within:
        least = min((row[metric] for row in timed_rows), default=None)
        reason = (
            "too few queries for p90: ask for 64 at least" if least is None else f"the least {metric} is {least:.3g}"
        )
        return head | {"batch": None, "clips_per_second": None, "interval": None, "reason": reason}
    best = max(rows_within, key=lambda row: row["clips_per_second"])
    return head | {key: best[key] for key in ("batch", "clips_per_second", "interval")}


def _make_load_target(target: LatencyTarget, batch: int, scenario: str = "") -> LatencyTarget:
    """The same file under a load; a sweep's batch of 8 and a multi-stream query are measured apart."""
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
    """Clips a second while queries of a batch follow each other; the interval is over processes.

    Raises:
        UserError: Nothing was measured.
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
    """Clips, seconds, and whether the run is as long as MLPerf asks."""
    seconds = float(np.sum([np.sum(s) for s in latency.samples_ms])) / 1000
    return {
        "clips": clips,
        "seconds": seconds,
        "mlperf_floor_met": seconds >= _MLPERF_SECONDS and clips >= clips_floor,
    }
