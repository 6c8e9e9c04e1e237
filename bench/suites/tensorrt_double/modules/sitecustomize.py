"""Stands for the driver: its libraries load in every process that finds the double."""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

DRIVERS, MANAGEMENT = ("libcuda.so.1", "nvcuda.dll"), ("libnvidia-ml.so.1", "nvml.dll")
_real_cdll = ctypes.CDLL


def load_library(name: Any, *arguments: Any, **options: Any) -> Any:
    """`ctypes.CDLL`, except that the driver's library is this process itself, and NVML is a module."""
    if name in MANAGEMENT:
        return importlib.import_module("double_nvml")
    return _real_cdll(None if name in DRIVERS else name, *arguments, **options)


ctypes.CDLL = load_library  # type: ignore[assignment,misc]  # typeshed has a class there
