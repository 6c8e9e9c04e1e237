"""Energy per clip from the machine's own counters: processor (RAPL), NVIDIA GPU (NVML) and Jetson (INA3221).

Each counter has the name of its rail. Rails that would count the same energy twice are not added: on a board whose
INA3221 measures the input of the whole module, only that rail is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypedDict, final

from skd_bench.device.energy.ina3221 import HWMON, find_ina3221_counters
from skd_bench.device.energy.nvml import find_nvml_counters
from skd_bench.device.energy.rapl import POWERCAP, find_rapl_counters
from skd_bench.stats import mean_interval

_WINDOWS = 5
_MIN_UPDATES = 100  # a counter that changed less often during a measurement is too coarse for it


@final
class QueryEnergy(TypedDict):
    """The energy of one query above that of the idle machine, as a JSON object.

    `interval` is the 95 % interval of `joules_per_clip` over the windows; `seconds` is the duration of the queries;
    `rails` contains joules per clip above idle for each rail; `updates` counts the changes of the counter during the
    queries, up to 100; `enough` is whether there were 100, which a result to report needs.
    """

    joules_per_clip: float
    interval: list[float]
    idle_watts: float
    clips: int
    seconds: float
    rail: str
    rails: dict[str, float]
    updates: int
    enough: bool


class EnergyCounter(Protocol):
    """The energy counter of one rail.

    Attributes:
        rail: What it measures, in words.
    """

    rail: str

    def read_joules_delta(self) -> float:
        """Joules since the last call; the first call counts from the opening of the counter."""


class EnergyMeter:
    """The sum of the energy counters of several rails.

    Args:
        counters: The counters, each of another rail.

    Attributes:
        rail: The rails that are measured, in words. Parts of the machine on no such rail are not measured.
    """

    def __init__(self, counters: Sequence[EnergyCounter]) -> None:
        self._counters = counters
        self._joules = [0.0] * len(counters)
        self.rail = "; ".join(c.rail for c in counters)

    def total_joules(self) -> float:
        """Joules since the meter was opened. Call it at least once a minute: a counter may wrap around unnoticed."""
        return sum(self.joules_by_rail().values())

    def joules_by_rail(self) -> dict[str, float]:
        """Joules of each rail since the meter was opened."""
        for i, counter in enumerate(self._counters):
            self._joules[i] += counter.read_joules_delta()
        return {c.rail: joules for c, joules in zip(self._counters, self._joules, strict=True)}

    def close(self) -> None:
        """Stop the threads that read counters in the background."""
        for counter in self._counters:
            if close := getattr(counter, "close", None):
                close()


def open_energy_meter(
    root: Path = POWERCAP, *, hwmon: Path = HWMON, nvml: str | None = "libnvidia-ml.so.1"
) -> EnergyMeter | str:
    """The machine's energy meter, or the reason why there is none.

    Args:
        root: The folder where Linux lists its powercap zones (RAPL).
        hwmon: The folder where Linux lists its sensors (INA3221).
        nvml: NVIDIA's management library; None: do not search for GPUs.

    Returns:
        A meter, or a sentence that begins with "not measurable here".
    """
    board = find_ina3221_counters(hwmon)
    if not isinstance(board, str):
        return EnergyMeter(board)
    found: list[EnergyCounter] = []
    reasons = []
    for counters in (find_rapl_counters(root), find_nvml_counters(nvml) if nvml else "GPUs were not searched for"):
        if isinstance(counters, str):
            reasons.append(counters)
        else:
            found += counters
    if not found:
        return "not measurable here: " + "; ".join([*reasons, board])
    return EnergyMeter(found)


def measure_joules_per_query(
    meter: EnergyMeter, query: Callable[[], object], *, seconds: float = 10.0, idle_seconds: float = 2.0
) -> QueryEnergy:
    """Measure the energy of one query above the energy of the idle machine.

    Args:
        meter: A meter that `open_energy_meter` returned.
        query: Runs the network on one clip; it is called repeatedly.
        seconds: Duration of the queries, divided into five windows; use at least 10 for a result to report.
        idle_seconds: Duration of the idle measurement before them.
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
