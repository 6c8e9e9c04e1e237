"""Joules, where the machine counts them: the processor package's RAPL counter through Linux' powercap."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skd_bench.stats import mean_interval

_POWERCAP = Path("/sys/class/powercap")
_WINDOWS = 5


@dataclass
class _Counter:
    """One package's counter: microjoules, which start again at 0 after `wraps_at`."""

    path: Path
    name: str
    wraps_at: int
    last: int

    def advance(self) -> int:
        now = int(self.path.read_text())
        step = now - self.last
        self.last = now
        return step if step >= 0 else step + self.wraps_at


class EnergyMeter:
    """Counts the joules of every processor package together.

    Attributes:
        rail: What is counted, in words: memory and GPUs are not.
    """

    def __init__(self, counters: list[_Counter]) -> None:
        self._counters = counters
        self._joules = 0.0
        self.rail = "processor package (RAPL): " + ", ".join(c.name for c in counters)

    def joules(self) -> float:
        """Joules since the meter was opened; ask at least once a minute, or a wrapped counter is missed."""
        self._joules += sum(c.advance() for c in self._counters) * 1e-6
        return self._joules


def open_meter(root: Path = _POWERCAP) -> EnergyMeter | str:
    """The machine's energy meter, or the reason why there is none.

    Args:
        root: Where Linux lists its powercap zones.

    Returns:
        A meter, or a sentence that begins with "not measurable here".
    """
    zones = [z for z in sorted(root.glob("intel-rapl:*")) if re.fullmatch(r"intel-rapl:\d+", z.name)]
    counters = []
    for zone in zones:
        try:
            name = (zone / "name").read_text().strip()
            if not name.startswith("package"):  # "psys" counts the packages once more
                continue
            energy = zone / "energy_uj"
            counters.append(
                _Counter(energy, name, int((zone / "max_energy_range_uj").read_text()), int(energy.read_text()))
            )
        except PermissionError:
            return f"not measurable here: {zone / 'energy_uj'} may be read by root only"
        except (OSError, ValueError) as error:
            return f"not measurable here: {zone} gives no energy ({error})"
    if not counters:
        return f"not measurable here: no processor package counter (RAPL) under {root}"
    return EnergyMeter(counters)


def joules_per_query(
    meter: EnergyMeter, query: Callable[[], object], *, seconds: float = 10.0, idle_seconds: float = 2.0
) -> dict[str, Any]:
    """The energy of one query above the idle machine's.

    Args:
        meter: From `open_meter`.
        query: Answers one clip; called again and again.
        seconds: How long, in five windows; at least 10 for a figure to report.
        idle_seconds: How long the idle machine is watched first.

    Returns:
        `joules_per_clip`, `interval` (95 %, over the windows), `idle_watts`, `clips`, `seconds`, `rail`.
    """
    idle_watts = _idle_watts(meter, idle_seconds)
    per_clip: list[float] = []
    clips, started = 0, time.perf_counter()
    for _ in range(_WINDOWS):
        begin, before, count = time.perf_counter(), meter.joules(), 0
        while (spent := time.perf_counter() - begin) < seconds / _WINDOWS or count == 0:
            query()
            count += 1
        spent = time.perf_counter() - begin
        per_clip.append((meter.joules() - before - idle_watts * spent) / count)
        clips += count
    interval = mean_interval(per_clip)
    return {
        "joules_per_clip": interval.value,
        "interval": [interval.low, interval.high],
        "idle_watts": idle_watts,
        "clips": clips,
        "seconds": time.perf_counter() - started,
        "rail": meter.rail,
    }


def _idle_watts(meter: EnergyMeter, seconds: float) -> float:
    begin, before = time.perf_counter(), meter.joules()
    time.sleep(seconds)
    return (meter.joules() - before) / (time.perf_counter() - begin)
