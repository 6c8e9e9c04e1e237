"""The clock of the GPU in use, and what lowers it now: from devfreq on a Jetson, else from NVML."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from skd_bench.device.nvml import LIBRARY, NvmlGpu, open_nvml_gpu
from skd_bench.device.throttling import read_throttling

# What the driver does also at full speed. A power cap is in this list, because a GPU at its cap runs at a steady clock;
# where the clock is not steady, that is seen by itself.
_HARMLESS = {"idle", "application clocks", "display clocks", "sync boost", "software power cap"}
_IDLE_PERCENT = 5  # a desktop uses a little
_PATIENCE_S = 2.0  # the driver's figures are of up to a second
# The folders of the GPU in /sys/class/devfreq: Thor, Orin, Xavier, and their names in newer kernels.
_DEVFREQ_NAMES = ("gpu-gpc-0", "*.ga10b", "*.gv11b", "*.gpu")


@dataclass(frozen=True)
class ClockReading:
    """The state of a GPU at one moment.

    Attributes:
        mhz: Its clock, MHz; None where it is not known.
        slowdowns: Why its clock is lower than its load needs, in words; empty if it is not, or is not known.
        events: A counter of slowdowns (over-current on a Jetson); None where there is none.
    """

    mhz: float | None
    slowdowns: tuple[str, ...] = ()
    events: int | None = None


def open_gpu_clock(root: Path = Path("/sys"), *, nvml: str = LIBRARY) -> Callable[[], ClockReading] | str:
    """What reads the clock of the GPU in use, or the reason why it cannot be read.

    Call it before this process uses the GPU. If the GPU computes then, for longer than the driver remembers an earlier
    process, that is another program, and counts as a slowdown.

    Args:
        root: The root of sysfs.
        nvml: NVML's name or path.
    """
    for pattern in _DEVFREQ_NAMES:
        for folder in sorted((root / "class/devfreq").glob(pattern)):
            if _read_devfreq_mhz(folder) is not None:
                return lambda: ClockReading(_read_devfreq_mhz(folder), events=read_throttling(root)["events"])
    gpu = open_nvml_gpu(nvml)
    if isinstance(gpu, str):
        return gpu
    busy = _is_busy(gpu)
    return lambda: _read_nvml(gpu, busy=busy)


def _is_busy(gpu: NvmlGpu) -> bool:
    deadline = time.monotonic() + _PATIENCE_S
    while (gpu.read_load() or 0) > _IDLE_PERCENT:
        if time.monotonic() > deadline:
            return True
        time.sleep(0.1)
    return False


def _read_nvml(gpu: NvmlGpu, *, busy: bool) -> ClockReading:
    try:
        mhz: float | None = gpu.read_clock_mhz()
    except (OSError, AttributeError):
        mhz = None
    slowdowns = [reason for reason in gpu.read_throttle_reasons() if reason not in _HARMLESS]
    if busy:
        slowdowns.append("another program uses the GPU")
    return ClockReading(mhz, tuple(slowdowns))


def _read_devfreq_mhz(folder: Path) -> float | None:
    try:
        return int((folder / "cur_freq").read_text()) / 1e6
    except (OSError, ValueError):
        return None
