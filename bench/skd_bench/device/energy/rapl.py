"""The energy counters of processor packages (RAPL), read through Linux's powercap."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass
class RaplCounter:
    """The energy counter of one package: microjoules that start again at 0 after `wraps_at`."""

    path: Path
    rail: str
    wraps_at: int
    last: int

    def read_joules_delta(self) -> float:
        """Joules since the last call."""
        now = int(self.path.read_text())
        step = now - self.last
        self.last = now
        return (step if step >= 0 else step + self.wraps_at) * 1e-6


def find_rapl_counters(root: Path = POWERCAP) -> list[RaplCounter] | str:
    """Find the energy counter of each processor package.

    Args:
        root: The folder where Linux lists its powercap zones.

    Returns:
        The counters, or the reason why there are none.
    """
    zones = [z for z in sorted(root.glob("intel-rapl:*")) if re.fullmatch(r"intel-rapl:\d+", z.name)]
    counters = []
    for zone in zones:
        try:
            name = (zone / "name").read_text().strip()
            if not name.startswith("package"):  # "psys" includes the packages, which would count twice
                continue
            energy = zone / "energy_uj"
            wraps_at = int((zone / "max_energy_range_uj").read_text())
            counters.append(RaplCounter(energy, f"processor package (RAPL) {name}", wraps_at, int(energy.read_text())))
        except PermissionError:
            return f"only root may read {zone / 'energy_uj'}"
        except (OSError, ValueError) as error:
            return f"{zone} cannot be read ({error})"
    return counters or f"no processor package counter (RAPL) under {root}"
