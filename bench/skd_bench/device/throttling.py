"""What held a processor or a board back: counters and flags that Linux shows without rights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# The Raspberry Pi's firmware flags, now (low half) and since boot (high half).
_PI = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}


def throttling(root: Path = Path("/sys")) -> dict[str, Any]:
    """Why clocks were lowered, as far as it can be read.

    Args:
        root: Of sysfs.

    Returns:
        `events` (how often since boot: x86 thermal throttling of cores and packages, Jetson over-current; None where
        nothing counts) and `now` (reasons in words; None where nothing tells).
    """
    return {"events": _events(root), "now": _pi(root)}


def power_mode(root: Path = Path("/")) -> str | None:
    """A Jetson's power mode (nvpmodel) and release, in words; None elsewhere.

    Args:
        root: Of the file system.
    """
    release = _read(root / "etc/nv_tegra_release")
    if release is None:
        return None
    mode = (_read(root / "var/lib/nvpmodel/status") or "").removeprefix("pmode:").strip()
    return f"nvpmodel {mode.lstrip('0') or '0' if mode else 'unknown'}; {release.splitlines()[0].lstrip('# ')[:60]}"


def _events(root: Path) -> int | None:
    cores = root / "devices/system/cpu"
    files = [*cores.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"), *_packages(cores)]
    files += root.glob("class/hwmon/hwmon*/oc[1-4]_event_cnt")
    counts = [int(text) for text in map(_read, files) if text and text.isdigit()]
    return sum(counts) if counts else None


def _packages(cores: Path) -> list[Path]:
    """Every core repeats its package's counter: one file for each package."""
    first: dict[str, Path] = {}
    for file in sorted(cores.glob("cpu[0-9]*/thermal_throttle/package_throttle_count")):
        package = _read(file.parents[1] / "topology/physical_package_id") or "0"
        first.setdefault(package, file)
    return list(first.values())


def _pi(root: Path) -> list[str] | None:
    text = _read(root / "devices/platform/soc/soc:firmware/get_throttled")
    try:
        bits = int(text, 16) if text else None
    except ValueError:
        return None
    if bits is None:
        return None
    now = [said for bit, said in _PI.items() if bits >> bit & 1]
    return now + [f"{said} since boot" for bit, said in _PI.items() if bits >> (16 + bit) & 1 and said not in now]


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None
