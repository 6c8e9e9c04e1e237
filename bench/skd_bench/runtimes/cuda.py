"""CUDA through NVIDIA's cuda-bindings or its runtime library: the driver, the GPU in use, calls with checked status.

This module has not been run on a GPU yet. On machines without a GPU, its functions raise CUDA's error; that is tested.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import sys
from dataclasses import dataclass
from typing import Any

from skd_bench.errors import UserError
from skd_bench.runtimes.cudart import load_cudart

PIP_COMMAND = "pip install cuda-bindings"
_DRIVER_LIBRARIES = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}


@dataclass(frozen=True)
class Gpu:
    """The GPU in use.

    Attributes:
        name: Its name.
        sm: Its compute capability times ten.
        driver: The newest CUDA version that its driver supports (13020: 13.2).
    """

    name: str
    sm: int
    driver: int

    def __str__(self) -> str:
        return f"{self.name} (SM{self.sm}, driver for CUDA {self.driver // 1000}.{self.driver % 1000 // 10})"


def why_no_nvidia_driver() -> str | None:
    """Why no NVIDIA GPU can be used here; None where the driver is installed. Loads only the driver's library."""
    name = _DRIVER_LIBRARIES.get(sys.platform)
    if name is None:
        return f"there is no NVIDIA driver for the platform {sys.platform}"
    try:
        ctypes.CDLL(name)
    except OSError:
        return f"there is no NVIDIA driver ({name} does not load)"
    return None


def why_cuda_unavailable() -> str | None:
    """Why no engine can run here; None where driver and bindings are installed. Loads only libraries of CUDA."""
    if (reason := why_no_nvidia_driver()) is not None:
        return reason
    if importlib.util.find_spec("cuda") is not None and importlib.util.find_spec("cuda.bindings") is not None:
        return None
    try:
        load_cudart()
    except UserError as error:
        return f"cuda-bindings is not installed, and {error}; {PIP_COMMAND}"
    return None


def find_gpu() -> Gpu:
    """The GPU in use: device 0 of the visible ones.

    Raises:
        UserError: The driver or the bindings are not installed, or no GPU is visible.
    """
    reason = why_cuda_unavailable()
    if reason is not None:
        raise UserError(reason)
    cuda = import_cuda_bindings()
    if call_cuda(cuda.cudaGetDeviceCount) == 0:
        raise UserError("the NVIDIA driver lists no GPU; check CUDA_VISIBLE_DEVICES")
    attribute = cuda.cudaDeviceAttr
    major, minor = (
        call_cuda(cuda.cudaDeviceGetAttribute, which, 0)
        for which in (attribute.cudaDevAttrComputeCapabilityMajor, attribute.cudaDevAttrComputeCapabilityMinor)
    )
    name = call_cuda(cuda.cudaGetDeviceProperties, 0).name
    return Gpu(
        name.decode().strip("\0") if isinstance(name, bytes) else str(name),
        10 * int(major) + int(minor),
        int(call_cuda(cuda.cudaDriverGetVersion)),
    )


def import_cuda_bindings() -> Any:
    """Import the module `cuda.bindings.runtime`; where it is not installed, load CUDA's runtime library instead.

    Raises:
        UserError: There is neither.
    """
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        try:
            return load_cudart()
        except UserError as missing:
            raise UserError(f"cuda-bindings cannot be imported ({error}), and {missing}; {PIP_COMMAND}") from error


def call_cuda(function: Any, *arguments: Any) -> Any:
    """Call a CUDA function and return its values without the status: one value, or a tuple.

    Raises:
        UserError: The status is an error; the message contains CUDA's description.
    """
    status, *values = function(*arguments)
    if int(status) != 0:
        _, text = import_cuda_bindings().cudaGetErrorString(status)
        reason = text.decode() if isinstance(text, bytes) else str(text)
        raise UserError(f"CUDA failed in {function.__name__}: {reason} (error {int(status)})")
    return values[0] if len(values) == 1 else tuple(values)
