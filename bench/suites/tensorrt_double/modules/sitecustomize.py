"""Stands for the driver: ``ctypes.CDLL("libcuda.so.1")`` loads in every process that finds the double."""

from __future__ import annotations

import ctypes
from typing import Any

DRIVERS = ("libcuda.so.1", "nvcuda.dll")
_real_cdll = ctypes.CDLL


def load_library(name: Any, *arguments: Any, **options: Any) -> Any:
    """`ctypes.CDLL`, except that the driver's library is this process itself."""
    return _real_cdll(None if name in DRIVERS else name, *arguments, **options)


ctypes.CDLL = load_library  # type: ignore[assignment,misc]  # typeshed has a class there
