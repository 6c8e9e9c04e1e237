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

from skd_bench.benchmark.latency import Latency, Target
from skd_bench.errors import UsageError
from skd_bench.runtimes import runtimes
from skd_bench.stats import Interval, mean_interval

SCENARIOS = ("single-stream", "multi-stream", "offline")
BATCHES = (1, 2, 4, 8, 16)
_STREAMS = 8
_MLPERF_SECONDS, _MLPERF_OFFLINE_CLIPS = 600, 24_576
_LARGEST = 4096


@dataclass(frozen=True)
class Extra:
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

    def checked(self) -> Extra:
        """The same, each thing once, with the batches that throughput needs.

        Raises:
            UsageError: A scenario or a runtime is unknown, or a batch or the bound is out of range.
        """
        if unknown := [r for r in self.runtimes if r not in runtimes()]:
            raise UsageError(f"there is no runtime {unknown[0]!r}; there are: {', '.join(runtimes())}")
        if strange := [s for s in self.scenarios if s not in SCENARIOS]:
            raise UsageError(f"there is no scenario {strange[0]!r}; there are: {', '.join(SCENARIOS)}")
        if odd := [b for b in self.batches if not 1 <= b <= _LARGEST]:
            raise UsageError(f"a query of {odd[0]} clips cannot be; batches are 1 to {_LARGEST}")
        if self.bound_ms is not None and not 0 < self.bound_ms < 1e9:
            raise UsageError(f"a bound of {self.bound_ms} ms cannot be kept; it is milliseconds above 0")
        wanted = self.bound_ms is not None or "offline" in self.scenarios
        batches = sorted(set(self.batches)) or (list(BATCHES) if wanted else [])
        once = list(dict.fromkeys(self.scenarios))
        return replace(self, scenarios=once, batches=batches, runtimes=list(dict.fromkeys(self.runtimes)))

    @property
    def loads(self) -> int:
        """How many further loads each row is measured under."""
        return len(self.batches) + ("multi-stream" in self.scenarios) + ("offline" in self.scenarios)


def measure_loads(
    targets: Sequence[Target], extra: Extra, single: dict[str, Latency], measure: Callable[..., dict[str, Latency]]
) -> tuple[dict[str, dict[str, Any]], dict[str, Latency]]:
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
    swept = [_at(t, b) for t in targets for b in extra.batches]
    several = [_at(t, _STREAMS, "multi-stream") for t in targets if "multi-stream" in extra.scenarios]
    found = measure([*swept, *several]) if swept or several else {}
    rows = {t.name: [_batch_row(b, found[_at(t, b).name]) for b in extra.batches] for t in targets}
    offline = {}
    if "offline" in extra.scenarios:
        best = {t.name: max(rows[t.name], key=lambda row: row["clips_per_second"])["batch"] for t in targets}
        offline = {t.name: replace(_at(t, best[t.name], "offline"), stretch=True) for t in targets}
        found |= measure(list(offline.values()))
    facts = {}
    for target in targets:
        scenarios = {}
        if "single-stream" in extra.scenarios:
            scenarios["single-stream"] = _stream(single[target.name], 1, "p90")
        if "multi-stream" in extra.scenarios:
            scenarios["multi-stream"] = _stream(found[_at(target, _STREAMS, "multi-stream").name], _STREAMS, "p99")
        if target.name in offline:
            asked = offline[target.name]
            scenarios["offline"] = _offline(found[asked.name], asked.batch)
        bound = None if extra.bound_ms is None else within_bound(rows[target.name], extra.bound_ms)
        facts[target.name] = {"scenarios": scenarios, "batches": rows[target.name], "bound": bound}
    return facts, found


def within_bound(rows: Sequence[dict[str, Any]], bound_ms: float) -> dict[str, Any]:
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
    known = [row for row in rows if row[metric] is not None]
    kept = [row for row in known if row[metric] <= bound_ms]
    if not kept:
        least = min((row[metric] for row in known), default=None)
        why = "too few queries for p90: ask for 64 at least" if least is None else f"the least {metric} is {least:.3g}"
        return head | {"batch": None, "clips_per_second": None, "interval": None, "reason": why}
    best = max(kept, key=lambda row: row["clips_per_second"])
    return head | {key: best[key] for key in ("batch", "clips_per_second", "interval")}


def _at(target: Target, batch: int, scenario: str = "") -> Target:
    """The same file under a load; a sweep's batch of 8 and a multi-stream query are measured apart."""
    return replace(target, name=f"{target.name} [{scenario or 'batch'} {batch}]", batch=batch)


def _batch_row(batch: int, latency: Latency) -> dict[str, Any]:
    figures = {k: v for k, v in latency.to_json().items() if k.startswith("p") and k not in ("peak_mb", "processes")}
    speed = throughput(latency, batch)
    return {
        "batch": batch,
        "n": latency.n,
        **figures,
        "clips_per_second": speed.value,
        "interval": [speed.low, speed.high],
        "steady": latency.steady,
    }


def throughput(latency: Latency, batch: int) -> Interval:
    """Clips a second while queries of a batch follow each other; the interval is over processes.

    Raises:
        UserError: Nothing was measured.
    """
    return mean_interval([1000 * batch * len(s) / sum(s) for s in latency.samples_ms if s])


def _stream(latency: Latency, clips: int, percentile: str) -> dict[str, Any]:
    interval: Interval | None = getattr(latency, percentile)
    return {
        "metric": f"{percentile}_ms",
        "value": interval and interval.value,
        "interval": interval and [interval.low, interval.high],
        "clips_per_query": clips,
        "queries": latency.n,
        **_rests_on(latency, latency.n * clips, 0),
    }


def _offline(latency: Latency, batch: int) -> dict[str, Any]:
    speed = throughput(latency, batch)
    return {
        "metric": "clips_per_second",
        "value": speed.value,
        "interval": [speed.low, speed.high],
        "batch": batch,
        **_rests_on(latency, latency.n * batch, _MLPERF_OFFLINE_CLIPS),
    }


def _rests_on(latency: Latency, clips: int, clips_floor: int) -> dict[str, Any]:
    """Clips, seconds, and whether the run is as long as MLPerf asks."""
    seconds = float(np.sum([np.sum(s) for s in latency.samples_ms])) / 1000
    return {
        "clips": clips,
        "seconds": seconds,
        "mlperf_floor_met": seconds >= _MLPERF_SECONDS and clips >= clips_floor,
    }
