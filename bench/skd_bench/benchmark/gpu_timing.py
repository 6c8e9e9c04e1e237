"""Times queries on a GPU: warm until its clock settles, then blocks of queries, each between two readings of the clock.

A GPU raises its clock for hundreds of milliseconds, lowers it while it idles, and throttles when it is hot. A block
around which that happens is dropped and measured again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from skd_bench.device.gpu_clock import ClockReading

_BLOCKS = 8  # that the planned time is divided into
_MAX_BLOCKS = 4 * _BLOCKS
_CLOCK_RATIO = 1.03  # two readings of a steady clock; milliseconds change as much as the clock
_SETTLED_READINGS = 3
_MAX_WARM_SECONDS = 5.0
_WINDOW = 8  # queries between two looks at the time
_STEADY_RATIO = 1.10  # between the medians of the first and of the last quarter of the queries
_MAX_SAMPLES = 50_000


@dataclass(frozen=True)
class GpuPlan:
    """How long a file is measured on a GPU in one process.

    Attributes:
        queries: At least so many timed queries, at least 1.
        seconds: At least so many seconds of them.
        warm_seconds: At least so many seconds before them.
    """

    queries: int
    seconds: float
    warm_seconds: float


@dataclass(frozen=True)
class GpuClocks:
    """The clock of the GPU around the blocks of a measurement; None where it cannot be read.

    Attributes:
        before_mhz: Before the first block.
        after_mhz: After the last block.
        lowest_mhz: The lowest reading around a block.
        highest_mhz: The highest one.
        blocks: Blocks that were measured.
        dropped: Those that are not in the samples.
        reasons: Why blocks were dropped, or why the clock is not to be trusted, in words.
    """

    before_mhz: float | None
    after_mhz: float | None
    lowest_mhz: float | None
    highest_mhz: float | None
    blocks: int
    dropped: int
    reasons: list[str] = field(default_factory=list)

    @classmethod
    def merge(cls, parts: Sequence[GpuClocks]) -> GpuClocks:
        """Those of several processes: medians before and after, the extremes, and sums."""
        return cls(
            before_mhz=_reduce(np.median, [p.before_mhz for p in parts]),
            after_mhz=_reduce(np.median, [p.after_mhz for p in parts]),
            lowest_mhz=_reduce(np.min, [p.lowest_mhz for p in parts]),
            highest_mhz=_reduce(np.max, [p.highest_mhz for p in parts]),
            blocks=sum(p.blocks for p in parts),
            dropped=sum(p.dropped for p in parts),
            reasons=sorted(set(chain.from_iterable(p.reasons for p in parts))),
        )


@dataclass(frozen=True)
class GpuTiming:
    """Timed queries of one process.

    Attributes:
        samples_ns: Nanoseconds of each query, in order, without dropped blocks.
        steady: Whether the clock settled, enough blocks were good, and the queries did not become slower or faster.
        clocks: The GPU's clock.
    """

    samples_ns: list[int]
    steady: bool
    clocks: GpuClocks


@dataclass(frozen=True)
class _Block:
    samples_ns: list[int]
    seconds: float
    before: ClockReading
    after: ClockReading

    @property
    def known_mhz(self) -> list[float]:
        """The clock before and after, as far as it can be read."""
        return [reading.mhz for reading in (self.before, self.after) if reading.mhz]

    def find_problems(self, usual_mhz: float | None) -> list[str]:
        """Why it is to be dropped, in words; empty for a good block.

        Args:
            usual_mhz: The clock around most blocks.
        """
        found = sorted({*self.before.slowdowns, *self.after.slowdowns})
        if self.before.events is not None and self.after.events is not None and self.after.events > self.before.events:
            found.append("the machine throttled")
        if usual_mhz is not None and not _is_steady([usual_mhz, *self.known_mhz]):
            found.append("the clock drifted")
        return found


def time_on_gpu(query: Callable[[], object], plan: GpuPlan, read_clock: Callable[[], ClockReading]) -> GpuTiming:
    """Warm the GPU up, then time queries in blocks until enough of them are good.

    Where too few are good after four times the planned blocks, all are used, and the result is not steady.

    Args:
        query: Runs the network on one clip and waits for the answer.
        plan: How long.
        read_clock: See `open_gpu_clock`.
    """
    settled = _warm_up(query, plan.warm_seconds, read_clock)
    blocks: list[_Block] = []
    good: list[_Block] = []
    usual_mhz: float | None = None
    reading = read_clock()
    while not _is_enough(good, plan) and len(blocks) < _MAX_BLOCKS:
        blocks.append(_time_block(query, plan, reading, read_clock))
        reading = blocks[-1].after
        usual_mhz = _reduce(np.median, [mhz for block in blocks for mhz in block.known_mhz])
        good = [block for block in blocks if not block.find_problems(usual_mhz)]
    enough = _is_enough(good, plan)
    used = good if enough else blocks
    samples = list(chain.from_iterable(block.samples_ns for block in used))
    reasons = sorted(set(chain.from_iterable(block.find_problems(usual_mhz) for block in blocks)))
    if not settled:
        reasons.append(f"the clock did not settle within {_MAX_WARM_SECONDS:g} s of warm-up")
    around = [mhz for block in used for mhz in block.known_mhz]
    clocks = GpuClocks(
        before_mhz=used[0].before.mhz,
        after_mhz=used[-1].after.mhz,
        lowest_mhz=_reduce(np.min, around),
        highest_mhz=_reduce(np.max, around),
        blocks=len(blocks),
        dropped=len(blocks) - len(used),
        reasons=reasons,
    )
    return GpuTiming(samples, settled and enough and _is_level(samples), clocks)


def _warm_up(query: Callable[[], object], seconds: float, read_clock: Callable[[], ClockReading]) -> bool:
    """Run queries at least so long, until three readings of the clock in a row agree; False if they never do."""
    begin = time.perf_counter()
    readings = [read_clock()]
    limit = max(_MAX_WARM_SECONDS, 2 * seconds)
    while True:
        next_reading = time.perf_counter() + min(seconds, 0.4) / 4
        for _ in range(_WINDOW):
            query()
        while time.perf_counter() < next_reading:
            query()
        readings.append(read_clock())
        spent = time.perf_counter() - begin
        known = [reading.mhz for reading in readings[-_SETTLED_READINGS:] if reading.mhz]
        settled = len(readings) >= _SETTLED_READINGS and _is_steady(known)
        if spent >= seconds and (settled or spent >= limit):
            return settled


def _time_block(
    query: Callable[[], object], plan: GpuPlan, before: ClockReading, read_clock: Callable[[], ClockReading]
) -> _Block:
    samples: list[int] = []
    clock = time.perf_counter_ns
    query()  # reading the clock has taken a moment, in which the GPU idled
    begin = clock()
    seconds, queries = plan.seconds / _BLOCKS, -(-plan.queries // _BLOCKS)
    while (len(samples) < queries or (clock() - begin) / 1e9 < seconds) and len(samples) < _MAX_SAMPLES:
        for _ in range(min(_WINDOW, queries)):
            start = clock()
            query()
            samples.append(clock() - start)
    return _Block(samples, (clock() - begin) / 1e9, before, read_clock())


def _is_enough(blocks: Sequence[_Block], plan: GpuPlan) -> bool:
    samples = sum(len(block.samples_ns) for block in blocks)
    seconds = sum(block.seconds for block in blocks)
    return samples >= plan.queries and (seconds >= plan.seconds or samples >= _MAX_SAMPLES)


def _is_steady(mhz: Sequence[float]) -> bool:
    return not mhz or max(mhz) <= _CLOCK_RATIO * min(mhz)


def _is_level(samples_ns: Sequence[int]) -> bool:
    """Whether the first and the last quarter of the queries took equally long, within 10 %."""
    quarter = max(len(samples_ns) // 4, 1)
    first, last = float(np.median(samples_ns[:quarter])), float(np.median(samples_ns[-quarter:]))
    return max(first, last) <= _STEADY_RATIO * min(first, last)


def _reduce(function: Callable[[list[float]], Any], values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(function(known)) if known else None
