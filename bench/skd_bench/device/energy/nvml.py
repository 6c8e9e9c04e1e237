"""The energy counters of NVIDIA GPUs, read through the management library (NVML) that comes with the driver."""

from __future__ import annotations

import ctypes
import os
from typing import Any


class NvmlCounter:
    """The energy counter of one GPU: millijoules of its whole board since the driver was loaded (Volta and newer).

    Args:
        library: The loaded and initialised library.
        gpu: The GPU's index, from 0 in the order of nvidia-smi, or its UUID.

    Raises:
        OSError: There is no such GPU, or it has no energy counter.
    """

    def __init__(self, library: Any, gpu: str) -> None:
        self._library = library
        self._device = ctypes.c_void_p()
        by_index = gpu.isdecimal()
        find = library.nvmlDeviceGetHandleByIndex_v2 if by_index else library.nvmlDeviceGetHandleByUUID
        key = ctypes.c_uint(int(gpu)) if by_index else ctypes.c_char_p(gpu.encode())
        _check_nvml_status(library, find(key, ctypes.byref(self._device)))
        self.rail = f"GPU {gpu} board (NVML)"
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
    """Find the energy counter of the GPU in use: the first of ``CUDA_VISIBLE_DEVICES``, or GPU 0.

    Args:
        library: The library's name or path.

    Returns:
        The counter, or the reason why there is none.
    """
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
    if not gpu or gpu == "-1":
        return "CUDA_VISIBLE_DEVICES hides all GPUs"
    if gpu.startswith("MIG"):
        return f"a part of a GPU has no energy counter of its own ({gpu})"
    try:
        nvml = ctypes.CDLL(library)
        _check_nvml_status(nvml, nvml.nvmlInit_v2())
        return [NvmlCounter(nvml, gpu)]
    except (OSError, AttributeError) as error:
        return f"no GPU energy counter (NVML: {error})"


def _check_nvml_status(library: Any, code: int) -> None:
    """Raise an OSError with NVML's error message where a return code is not 0."""
    if code:
        library.nvmlErrorString.restype = ctypes.c_char_p
        raise OSError((library.nvmlErrorString(code) or b"unknown error").decode(errors="replace"))
