"""CUDA's runtime library through ctypes, for machines without NVIDIA's package cuda-bindings, such as a Jetson.

`CudartLibrary` has the functions of `cuda.bindings.runtime` that this package uses. Their arguments and results are the
same: a tuple of the status and the values. This module has not been run on a GPU yet.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import sys
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any

from skd_bench.errors import UserError

_MAJORS = ("13", "12")  # of CUDA; TensorRT 10 needs 12 or newer
_TOOLKITS = (Path("/usr/local"), Path("/usr/lib/aarch64-linux-gnu"), Path("/usr/lib/x86_64-linux-gnu"))
_PROPERTIES_BYTES = 1 << 14  # more than any version's cudaDeviceProp, whose first 256 bytes are the name
_NAME_BYTES = 256

_POINTER, _INT, _SIZE, _FLAGS = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t, ctypes.c_ulonglong


class _Result:
    """A parameter that a function writes to."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind


class _Function:
    """A function of the library, called with what it reads; returns the status and what it wrote.

    Args:
        name: Its name in messages.
        function: It.
        parameters: The ctypes of its parameters, in order; a `_Result` for each that it writes to.
    """

    def __init__(self, name: str, function: Any, parameters: tuple[Any, ...]) -> None:
        self.__name__, self._function, self._parameters = name, function, parameters

    def __call__(self, *arguments: Any) -> tuple[Any, ...]:
        given = iter(arguments)
        passed, results = [], []
        for kind in self._parameters:
            if isinstance(kind, _Result):
                results.append(kind.kind())
                passed.append(ctypes.byref(results[-1]))
            else:
                passed.append(kind(int(next(given))))
        status = int(self._function(*passed))
        return status, *(result.value or 0 for result in results)


_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cudaGetDeviceCount": (_Result(_INT),),
    "cudaDriverGetVersion": (_Result(_INT),),
    "cudaDeviceGetAttribute": (_Result(_INT), _INT, _INT),
    "cudaMemGetInfo": (_Result(_SIZE), _Result(_SIZE)),
    "cudaMalloc": (_Result(_POINTER), _SIZE),
    "cudaMallocHost": (_Result(_POINTER), _SIZE),
    "cudaFree": (_POINTER,),
    "cudaFreeHost": (_POINTER,),
    "cudaMemcpyAsync": (_POINTER, _POINTER, _SIZE, _INT, _POINTER),
    "cudaStreamCreate": (_Result(_POINTER),),
    "cudaStreamDestroy": (_POINTER,),
    "cudaStreamSynchronize": (_POINTER,),
    "cudaStreamBeginCapture": (_POINTER, _INT),
    "cudaStreamEndCapture": (_POINTER, _Result(_POINTER)),
    "cudaGraphInstantiate": (_Result(_POINTER), _POINTER, _FLAGS),
    "cudaGraphDestroy": (_POINTER,),
    "cudaGraphExecDestroy": (_POINTER,),
    "cudaGraphLaunch": (_POINTER, _POINTER),
    "cudaEventCreate": (_Result(_POINTER),),
    "cudaEventDestroy": (_POINTER,),
    "cudaEventRecord": (_POINTER, _POINTER),
    "cudaEventElapsedTime": (_Result(ctypes.c_float), _POINTER, _POINTER),
}
# The library's own name where it differs: CUDA 11 and 12 have other parameters under the plain name.
_LIBRARY_NAMES = {"cudaGraphInstantiate": "cudaGraphInstantiateWithFlags"}


class _MemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class _StreamCaptureMode(IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


class _DeviceAttr(IntEnum):
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class _DeviceProperties:
    """The properties of a GPU that are read here."""

    def __init__(self, name: bytes) -> None:
        self.name = name


class CudartLibrary:
    """A loaded runtime library, with the functions of `_FUNCTIONS` as attributes.

    Args:
        path: The library's name or path.

    Raises:
        OSError: It cannot be loaded.
        AttributeError: It lacks a function.
    """

    cudaMemcpyKind, cudaStreamCaptureMode, cudaDeviceAttr = _MemcpyKind, _StreamCaptureMode, _DeviceAttr

    def __init__(self, path: str) -> None:
        self.path, self._library = path, ctypes.CDLL(path)
        describe = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_int)
        self._describe = describe(("cudaGetErrorString", self._library))
        for name, parameters in _FUNCTIONS.items():
            function = getattr(self._library, _LIBRARY_NAMES.get(name, name))
            setattr(self, name, _Function(name, function, parameters))

    def cudaGetErrorString(self, status: int) -> tuple[int, bytes]:
        """The description of a status."""
        return 0, self._describe(int(status)) or b"unknown error"

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, _DeviceProperties]:
        """The name of a GPU."""
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        status = int(self._library.cudaGetDeviceProperties(properties, ctypes.c_int(device)))
        return status, _DeviceProperties(properties.raw[:_NAME_BYTES].partition(b"\0")[0])


@functools.cache
def load_cudart() -> Any:
    """The first runtime library of CUDA that loads on this machine.

    Raises:
        UserError: There is none.
    """
    problem = "it is not installed"
    for path in _list_libraries():
        try:
            return CudartLibrary(path)
        except (OSError, AttributeError) as error:
            problem = str(error)
    raise UserError(f"CUDA's runtime library (libcudart) does not load: {problem}")


def _list_libraries() -> Iterator[str]:
    """Names that the system may know, then the files of NVIDIA's packages for pip, then those of a toolkit."""
    if sys.platform == "win32":
        yield from (f"cudart64_{major}.dll" for major in _MAJORS)
        return
    names = [f"libcudart.so.{major}" for major in _MAJORS]
    yield from names
    package = importlib.util.find_spec("nvidia")
    folders = [Path(p) for p in package.submodule_search_locations or ()] if package else []
    for name in names:
        for folder in folders:
            yield from map(str, sorted(folder.glob(f"*/lib/{name}")))
        for folder in _TOOLKITS:
            yield from map(str, [*sorted(folder.glob(f"cuda*/lib64/{name}")), *sorted(folder.glob(name))])
