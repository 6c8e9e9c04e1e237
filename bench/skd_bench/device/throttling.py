"""Why a processor or a board ran at reduced clocks: counters and flags that any user can read on Linux."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

# The firmware flags of a Raspberry Pi: the present state in bits 0 to 3, the state since boot in bits 16 to 19.
_RASPBERRY_PI_FLAGS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}


class Throttling(TypedDict):
    """Throttling of a machine, as a JSON object.

    `events` is the number of events since boot (thermal throttling of cores and packages on x86, over-current on a
    Jetson); None where the machine has no such counter. `now` contains the present reasons in words (Raspberry Pi);
    None where the machine does not report them.
    """

    events: int | None
    now: list[str] | None


def read_throttling(root: Path = Path("/sys")) -> Throttling:
    """Read throttling events and their present reasons.

    Args:
        root: The root of sysfs.
    """
    return {"events": _count_throttle_events(root), "now": _read_raspberry_pi_flags(root)}


def read_power_mode(root: Path = Path("/")) -> str | None:
    """The power mode (nvpmodel) and the release of a Jetson, in words; None on other machines.

    Args:
        root: The root of the file system.
    """
    release = _read_text(root / "etc/nv_tegra_release")
    if release is None:
        return None
    mode = (_read_text(root / "var/lib/nvpmodel/status") or "").removeprefix("pmode:").strip()
    return f"nvpmodel {mode.lstrip('0') or '0' if mode else 'unknown'}; {release.splitlines()[0].lstrip('# ')[:60]}"


def _count_throttle_events(root: Path) -> int | None:
    cores = root / "devices/system/cpu"
    files = [*cores.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"), *_find_package_counters(cores)]
    files += root.glob("class/hwmon/hwmon*/oc[1-4]_event_cnt")
    counts = [int(text) for text in map(_read_text, files) if text and text.isdigit()]
    return sum(counts) if counts else None


def _find_package_counters(cores: Path) -> list[Path]:
    """One counter file for each package: each core of a package shows the same counter."""
    first: dict[str, Path] = {}
    for file in sorted(cores.glob("cpu[0-9]*/thermal_throttle/package_throttle_count")):
        package = _read_text(file.parents[1] / "topology/physical_package_id") or "0"
        first.setdefault(package, file)
    return list(first.values())


def _read_raspberry_pi_flags(root: Path) -> list[str] | None:
    text = _read_text(root / "devices/platform/soc/soc:firmware/get_throttled")
    try:
        bits = int(text, 16) if text else None
    except ValueError:
        return None
    if bits is None:
        return None
    now = [reason for bit, reason in _RASPBERRY_PI_FLAGS.items() if bits >> bit & 1]
    return now + [
        f"{reason} since boot"
        for bit, reason in _RASPBERRY_PI_FLAGS.items()
        if bits >> (16 + bit) & 1 and reason not in now
    ]


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None
