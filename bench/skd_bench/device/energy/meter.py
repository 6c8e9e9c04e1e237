"""Joules for each clip, where the machine counts them: processor (RAPL), NVIDIA GPU (NVML) and Jetson (INA3221).

Every counter names its rail, and rails that count the same joules twice are not added up: on a board whose INA3221
sees the whole input, that rail alone is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from skd_bench.device.energy.ina3221 import HWMON, find_ina3221_counters
from skd_bench.device.energy.nvml import find_nvml_counters
from skd_bench.device.energy.rapl import POWERCAP, find_rapl_counters
from skd_bench.stats import mean_interval

_WINDOWS = 5
_MIN_UPDATES = 100


class EnergyCounter(Protocol):
    """One rail's energy.

    Attributes:
        rail: What it counts, in words.
    """

    rail: str

    def read_joules_delta(self) -> float:
        """Joules since the last call (the first counts from the opening)."""


class EnergyMeter:
    """Counts the joules of several rails together.

    Attributes:
        rail: What is counted, in words: what no rail sees is not.
    """

    def __init__(self, counters: Sequence[EnergyCounter]) -> None:
        self._counters = counters
        self._joules = [0.0] * len(counters)
        self.rail = "; ".join(c.rail for c in counters)

    def total_joules(self) -> float:
        """Joules since the meter was opened; ask at least once a minute, or a wrapped counter is missed."""
        return sum(self.joules_by_rail().values())

    def joules_by_rail(self) -> dict[str, float]:
        """The same, rail by rail."""
        for i, counter in enumerate(self._counters):
            self._joules[i] += counter.read_joules_delta()
        return {c.rail: joules for c, joules in zip(self._counters, self._joules, strict=True)}

    def close(self) -> None:
        """Stop what reads in the background."""
        for counter in self._counters:
            if close := getattr(counter, "close", None):
                close()


def open_energy_meter(
    root: Path = POWERCAP, *, hwmon: Path = HWMON, nvml: str | None = "libnvidia-ml.so.1"
) -> EnergyMeter | str:
    """The machine's energy meter, or the reason why there is none.

    Args:
        root: Where Linux lists its powercap zones (RAPL).
        hwmon: Where Linux lists its sensors (INA3221).
        nvml: NVIDIA's management library; None: do not look for GPUs.

    Returns:
        A meter, or a sentence that begins with "not measurable here".
    """
    board = find_ina3221_counters(hwmon)
    if not isinstance(board, str):
        return EnergyMeter(board)
    found: list[EnergyCounter] = []
    reasons = []
    for counters in (find_rapl_counters(root), find_nvml_counters(nvml) if nvml else "GPUs were not looked for"):
        if isinstance(counters, str):
            reasons.append(counters)
        else:
            found += counters
    if not found:
        return "not measurable here: " + "; ".join([*reasons, board])
    return EnergyMeter(found)


def measure_joules_per_query(
    meter: EnergyMeter, query: Callable[[], object], *, seconds: float = 10.0, idle_seconds: float = 2.0
) -> dict[str, Any]:
    """The energy of one query above the idle machine's.

    Args:
        meter: From `open_meter`.
        query: Answers one clip; called again and again.
        seconds: How long, in five windows; at least 10 for a figure to report.
        idle_seconds: How long the idle machine is watched first.

    Returns:
        `joules_per_clip`, `interval` (95 %, over the windows), `idle_watts`, `clips`, `seconds`, `rail`, `rails`
        (joules a clip above idle, rail by rail), `updates` (how often the counter was seen to move), `enough`
        (whether that was 100 times, as a figure to report needs).
    """
    idle = _measure_idle_watts(meter, idle_seconds)
    idle_watts = sum(idle.values())
    per_clip: list[float] = []
    clips, started, first = 0, time.perf_counter(), meter.joules_by_rail()
    updates = 0
    for _ in range(_WINDOWS):
        begin, before, count = time.perf_counter(), meter.total_joules(), 0
        last = before
        while (spent := time.perf_counter() - begin) < seconds / _WINDOWS or count == 0:
            query()
            count += 1
            if updates < _MIN_UPDATES and (now := meter.total_joules()) != last:
                updates, last = updates + 1, now
        spent = time.perf_counter() - begin
        per_clip.append((meter.total_joules() - before - idle_watts * spent) / count)
        clips += count
    interval, elapsed = mean_interval(per_clip), time.perf_counter() - started
    rails = {
        rail: (joules - first[rail] - idle[rail] * elapsed) / clips for rail, joules in meter.joules_by_rail().items()
    }
    return {
        "joules_per_clip": interval.value,
        "interval": [interval.low, interval.high],
        "idle_watts": idle_watts,
        "clips": clips,
        "seconds": elapsed,
        "rail": meter.rail,
        "rails": rails,
        "updates": updates,
        "enough": updates >= _MIN_UPDATES,
    }


def _measure_idle_watts(meter: EnergyMeter, seconds: float) -> dict[str, float]:
    begin, before = time.perf_counter(), meter.joules_by_rail()
    time.sleep(seconds)
    after, spent = meter.joules_by_rail(), time.perf_counter() - begin
    return {rail: (joules - before[rail]) / spent for rail, joules in after.items()}
