"""The GPU in use, through the management library (NVML) that comes with NVIDIA's driver: clock, slowdowns, energy."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

from skd_bench.device.nvidia_smi import parse_throttle_reasons

LIBRARY = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
_SM_CLOCK = 1  # NVML_CLOCK_SM
# Newer and older names of one function.
_REASON_FUNCTIONS = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class NvmlGpu:
    """One GPU. A MIG instance has no clock of its own: then the clock is that of its GPU.

    Args:
        library: The loaded and initialised library.
        gpu: The GPU's index, from 0 in the order of nvidia-smi, its UUID, or the UUID of a MIG instance.

    Raises:
        OSError: There is no such GPU.
    """

    def __init__(self, library: Any, gpu: str) -> None:
        self._library, self.name = library, gpu
        self._device = ctypes.c_void_p()
        by_index = gpu.isdecimal()
        find = library.nvmlDeviceGetHandleByIndex_v2 if by_index else library.nvmlDeviceGetHandleByUUID
        key = ctypes.c_uint(int(gpu)) if by_index else ctypes.c_char_p(gpu.encode())
        self._check_status(find(key, ctypes.byref(self._device)))
        if gpu.startswith("MIG"):
            parent = ctypes.c_void_p()
            self._check_status(library.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self._device, ctypes.byref(parent)))
            self._device = parent

    def read_clock_mhz(self) -> float:
        """The present clock of the multiprocessors, MHz.

        Raises:
            OSError: The GPU does not report it.
        """
        value = ctypes.c_uint()
        self._check_status(self._library.nvmlDeviceGetClockInfo(self._device, _SM_CLOCK, ctypes.byref(value)))
        return float(value.value)

    def read_throttle_reasons(self) -> list[str]:
        """The present reasons for reduced clocks in words (see `parse_throttle_reasons`); empty if it reports none."""
        for name in _REASON_FUNCTIONS:
            value = ctypes.c_ulonglong()
            function = getattr(self._library, name, None)
            if function is not None and function(self._device, ctypes.byref(value)) == 0:
                return parse_throttle_reasons(hex(value.value)) or []
        return []

    def read_load(self) -> int | None:
        """Percent of the last moments (up to a second) in which the GPU computed; None if it does not report that."""
        rates = _Utilization()
        function = getattr(self._library, "nvmlDeviceGetUtilizationRates", None)
        if function is None or function(self._device, ctypes.byref(rates)) != 0:
            return None
        return int(rates.gpu)

    def read_millijoules(self) -> int:
        """Energy of the whole board since the driver was loaded, mJ (Volta and newer).

        Raises:
            OSError: The GPU has no energy counter.
        """
        value = ctypes.c_ulonglong()
        self._check_status(self._library.nvmlDeviceGetTotalEnergyConsumption(self._device, ctypes.byref(value)))
        return value.value

    def _check_status(self, code: int) -> None:
        """Raise an OSError with NVML's error message where a return code is not 0."""
        _check_status(self._library, code)


def find_gpu_in_use() -> str | None:
    """The first of ``CUDA_VISIBLE_DEVICES``, or "0"; None where that variable hides all GPUs."""
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
    return None if not gpu or gpu == "-1" else gpu


def open_nvml_gpu(library: str = LIBRARY) -> NvmlGpu | str:
    """Open the GPU in use (see `find_gpu_in_use`).

    Args:
        library: The library's name or path.

    Returns:
        The GPU, or the reason why there is none.
    """
    gpu = find_gpu_in_use()
    if gpu is None:
        return "CUDA_VISIBLE_DEVICES hides all GPUs"
    try:
        nvml = ctypes.CDLL(library)
        _check_status(nvml, nvml.nvmlInit_v2())
        return NvmlGpu(nvml, gpu)
    except (OSError, AttributeError) as error:
        return f"NVML: {error}"


def _check_status(library: Any, code: int) -> None:
    if code:
        library.nvmlErrorString.restype = ctypes.c_char_p
        raise OSError((library.nvmlErrorString(code) or b"unknown error").decode(errors="replace"))
