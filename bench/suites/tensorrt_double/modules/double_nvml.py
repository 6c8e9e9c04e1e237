"""Double of NVML: a GPU whose clock stays at 1000 MHz, unless a fault lets it drift or throttle.

`sitecustomize` gives this module in place of the library ``libnvidia-ml.so.1``. See
`bench.suites.tensorrt_double.double`.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

MHZ, DRIFTED_MHZ = 1000, 500
_HARDWARE_THERMAL_SLOWDOWN = 0x40
_readings = itertools.count(1)


def _has_fault(name: str) -> bool:
    return name in os.environ.get("TENSORRT_DOUBLE_FAULTS", "").split()


def nvmlInit_v2() -> int:
    return 0


def nvmlErrorString(code: int) -> bytes:
    return b"error of the double"


def nvmlDeviceGetHandleByIndex_v2(index: Any, device: Any) -> int:
    return 0


def nvmlDeviceGetHandleByUUID(uuid: Any, device: Any) -> int:
    return 0


def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part: Any, device: Any) -> int:
    return 0


def nvmlDeviceGetClockInfo(device: Any, kind: int, mhz: Any) -> int:
    drifts = _has_fault("clock-drift") and next(_readings) % 6 == 0
    mhz._obj.value = DRIFTED_MHZ if drifts else MHZ
    return 0


def nvmlDeviceGetUtilizationRates(device: Any, rates: Any) -> int:
    rates._obj.gpu = 80 if _has_fault("shared") else 0
    return 0


def nvmlDeviceGetCurrentClocksEventReasons(device: Any, mask: Any) -> int:
    mask._obj.value = _HARDWARE_THERMAL_SLOWDOWN if _has_fault("throttle") else 0
    return 0
