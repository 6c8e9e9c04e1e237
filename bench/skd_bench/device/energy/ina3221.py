"""The power rails of a Jetson board, measured by its INA3221 sensor and read through Linux's hwmon.

The sensor measures voltage and current, not energy. A thread therefore reads them at a fixed interval and integrates
power over time.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

HWMON = Path("/sys/class/hwmon")
# The names that versions of JetPack give to the rail that supplies the whole module. It includes all other rails.
_BOARD_INPUT_RAILS = ("VDD_IN", "POM_5V_IN", "SYS_VIN", "VDD_5V_IN")
# On these modules no rail supplies the whole module: three together do, and the third supplies all further rails. (The
# INA238 of AGX Thor measures the whole board, carrier included, and is not read.)
_RAILS_OF_MODULES = {
    "AGX Orin": ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    "AGX Thor": ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
}
_PERIOD_S = 0.02


class Ina3221Counter:
    """The energy of one rail: power is read every 20 ms and integrated by the trapezoidal rule.

    Args:
        voltage: The file that contains millivolts.
        current: The file that contains milliamperes.
        name: The rail's name.
        period: Seconds between two readings; 0: power is read only when `read_joules_delta` is called.
    """

    def __init__(self, voltage: Path, current: Path, name: str, period: float = _PERIOD_S) -> None:
        self._voltage, self._current = voltage, current
        self.rail = f"{name} (INA3221)"
        self._lock = threading.Lock()
        self._joules = 0.0
        self._last = (time.perf_counter(), self._read_watts())
        self._stop = threading.Event()
        if period:
            threading.Thread(target=self._accumulate_periodically, args=(period,), daemon=True).start()

    def read_joules_delta(self) -> float:
        """Joules since the last call."""
        with self._lock:
            self._accumulate_joules()
            joules, self._joules = self._joules, 0.0
        return joules

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()

    def _accumulate_periodically(self, period: float) -> None:
        while not self._stop.wait(period):
            with self._lock:
                self._accumulate_joules()

    def _accumulate_joules(self) -> None:
        now, watts = time.perf_counter(), self._read_watts()
        before, last_watts = self._last
        self._joules += (now - before) * (watts + last_watts) / 2
        self._last = now, watts

    def _read_watts(self) -> float:
        return int(self._voltage.read_text()) * int(self._current.read_text()) * 1e-6


def find_ina3221_counters(root: Path = HWMON, *, period: float = _PERIOD_S) -> list[Ina3221Counter] | str:
    """Find the counter of the board's input rail or, where there is no such rail, those of all rails.

    Args:
        root: The folder where Linux lists its sensors.
        period: Seconds between two readings.

    Returns:
        The counters, or the reason why there are none.
    """
    rails: dict[str, tuple[Path, Path]] = {}
    try:
        for sensor in sorted(root.glob("hwmon*")):
            if (sensor / "name").read_text().strip().startswith("ina3221"):
                rails |= _find_rail_files(sensor)
        board_rail = next((name for name in _BOARD_INPUT_RAILS if name in rails), None)
        names = [board_rail] if board_rail else list(rails)
        for module_rails in _RAILS_OF_MODULES.values():
            if set(module_rails) <= set(rails):
                names = list(module_rails)
        chosen = {name: rails[name] for name in names}
        counters = [Ina3221Counter(*files, name, period) for name, files in chosen.items()]
    except (OSError, ValueError) as error:
        return f"the INA3221 sensor cannot be read ({error})"
    return counters or f"no INA3221 under {root}"


def _find_rail_files(sensor: Path) -> dict[str, tuple[Path, Path]]:
    """The voltage and current files of each of the three channels that is connected."""
    found = {}
    for label in sorted(sensor.glob("in[123]_label")):
        number = label.name[2]
        files = sensor / f"in{number}_input", sensor / f"curr{number}_input"
        name = label.read_text().strip()
        enabled = sensor / f"in{number}_enable"
        wired = name and name != "NC" and not (enabled.is_file() and enabled.read_text().strip() == "0")
        # "sum of shunt voltages" is a fourth channel of the driver, not a rail.
        if wired and all(file.is_file() for file in files):
            found[name] = files
    return found
