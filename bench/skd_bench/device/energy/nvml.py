"""The energy counters of NVIDIA GPUs, read through the management library (NVML) that comes with the driver."""

from __future__ import annotations

import ctypes
from typing import Any


class NvmlCounter:
    """The energy counter of one GPU: millijoules of its whole board since the driver was loaded (Volta and newer).

    Args:
        library: The loaded and initialised library.
        index: The GPU's index, from 0.

    Raises:
        OSError: The GPU has no energy counter.
    """

    def __init__(self, library: Any, index: int) -> None:
        self._library = library
        self._device = ctypes.c_void_p()
        _check_nvml_status(
            library, library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(self._device))
        )
        self.rail = f"GPU {index} board (NVML)"
        self._last = self._read_millijoules()

    def read_joules_delta(self) -> float:
        """Joules since the last call."""
        now = self._read_millijoules()
        step, self._last = now - self._last, now
        return step * 1e-3

    def _read_millijoules(self) -> int:
        value = ctypes.c_ulonglong()
        _check_nvml_status(
            self._library, self._library.nvmlDeviceGetTotalEnergyConsumption(self._device, ctypes.byref(value))
        )
        return value.value


def find_nvml_counters(library: str = "libnvidia-ml.so.1") -> list[NvmlCounter] | str:
    """Find the energy counter of each GPU.

    Args:
        library: The library's name or path.

    Returns:
        The counters, or the reason why there are none.
    """
    try:
        nvml = ctypes.CDLL(library)
        _check_nvml_status(nvml, nvml.nvmlInit_v2())
        count = ctypes.c_uint()
        _check_nvml_status(nvml, nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)))
        return [NvmlCounter(nvml, i) for i in range(count.value)] or "NVML finds no GPU"
    except (OSError, AttributeError) as error:
        return f"no GPU energy counter (NVML: {error})"


def _check_nvml_status(library: Any, code: int) -> None:
    """Raise an OSError with NVML's error message where a return code is not 0."""
    if code:
        library.nvmlErrorString.restype = ctypes.c_char_p
        raise OSError((library.nvmlErrorString(code) or b"unknown error").decode(errors="replace"))
