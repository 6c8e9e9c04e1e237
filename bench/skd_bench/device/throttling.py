"""What held a processor or a board back: counters and flags that Linux shows without rights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# The Raspberry Pi's firmware flags, now (low half) and since boot (high half).
_RASPBERRY_PI_FLAGS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}


def read_throttling(root: Path = Path("/sys")) -> dict[str, Any]:
    """Why clocks were lowered, as far as it can be read.

    Args:
        root: Of sysfs.

    Returns:
        `events` (how often since boot: x86 thermal throttling of cores and packages, Jetson over-current; None where
        nothing counts) and `now` (reasons in words; None where nothing tells).
    """
    return {"events": _count_throttle_events(root), "now": _read_raspberry_pi_flags(root)}


def read_power_mode(root: Path = Path("/")) -> str | None:
    """A Jetson's power mode (nvpmodel) and release, in words; None elsewhere.

    Args:
        root: Of the file system.
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
    """Every core repeats its package's counter: one file for each package."""
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
