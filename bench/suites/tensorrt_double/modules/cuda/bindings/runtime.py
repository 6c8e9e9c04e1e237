"""Double of `cuda.bindings.runtime`: host memory stands for GPU memory. See `bench.suites.tensorrt_double.double`.

Every function returns a tuple of a status and its values, as the real bindings do. Work that is put on a stream runs at
once, and while a stream is captured it is only recorded. `live` counts what was created and not freed.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import time
from collections import Counter
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

SUCCESS, INVALID_VALUE, OUT_OF_MEMORY, CAPTURE_FAILED, DEVICE_LOST = 0, 1, 2, 901, 719
_TEXTS = {1: b"invalid argument", 2: b"out of memory", 901: b"operation failed due to a previous error during capture"}
_TEXTS |= {719: b"unspecified launch failure"}
GPU_NAME, SM, DRIVER = b"double of a GPU", (8, 6), 13020
_LARGEST_BYTES = 1 << 33
_COPIES_UNTIL_LOST = 30  # in each process: more than a file needs to be prepared, less than to be measured

live: Counter[str] = Counter()
_buffers: dict[int, Any] = {}
_capturing: dict[int, list[Callable[[], int]]] = {}  # by stream
_graphs: dict[int, list[Callable[[], int]]] = {}
_events: dict[int, float] = {}
_handles = itertools.count(0x1000, 0x10)
_copies = itertools.count(1)


class cudaMemcpyKind(IntEnum):
    """Directions of a copy."""

    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(IntEnum):
    """How a capture treats calls of other threads."""

    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1


class cudaDeviceAttr(IntEnum):
    """Attributes of a GPU."""

    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


def has_fault(name: str) -> bool:
    """Whether this failure was requested (`bench.suites.tensorrt_double.double.FAULTS`)."""
    return name in os.environ.get("TENSORRT_DOUBLE_FAULTS", "").split()


def put_on_stream(stream: int, work: Callable[[], int]) -> int:
    """Run work, or record it while the stream is captured; its status."""
    if stream in _capturing:
        _capturing[stream].append(work)
        return SUCCESS
    return work()


def cudaGetErrorString(status: int) -> tuple[int, bytes]:
    return SUCCESS, _TEXTS.get(int(status), b"unknown error")


def cudaGetDeviceCount() -> tuple[int, int]:
    return SUCCESS, 0 if os.environ.get("CUDA_VISIBLE_DEVICES") == "" else 1


def cudaDeviceGetAttribute(which: int, device: int) -> tuple[int, int]:
    return SUCCESS, SM[int(which) - cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor]


def cudaGetDeviceProperties(device: int) -> tuple[int, Any]:
    return SUCCESS, SimpleNamespace(name=GPU_NAME)


def cudaDriverGetVersion() -> tuple[int, int]:
    return SUCCESS, DRIVER


def cudaMemGetInfo() -> tuple[int, int, int]:
    return SUCCESS, _LARGEST_BYTES - sum(len(b) for b in _buffers.values()), _LARGEST_BYTES


def _allocate(size: int, kind: str) -> tuple[int, int]:
    if size > _LARGEST_BYTES:
        return OUT_OF_MEMORY, 0
    buffer = (ctypes.c_uint8 * size)()
    address = ctypes.addressof(buffer)
    _buffers[address] = buffer
    live[kind] += 1
    return SUCCESS, address


def _free(address: int, kind: str) -> tuple[int]:
    if _buffers.pop(address, None) is None:
        return (INVALID_VALUE,)
    live[kind] -= 1
    return (SUCCESS,)


def cudaMalloc(size: int) -> tuple[int, int]:
    return _allocate(size, "device")


def cudaMallocHost(size: int) -> tuple[int, int]:
    return _allocate(size, "host")


def cudaFree(address: int) -> tuple[int]:
    return _free(address, "device")


def cudaFreeHost(address: int) -> tuple[int]:
    return _free(address, "host")


def cudaMemcpyAsync(target: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:
    def copy() -> int:
        if has_fault("lost") or (next(_copies) > _COPIES_UNTIL_LOST and has_fault("lost-later")):
            return DEVICE_LOST
        ctypes.memmove(target, source, size)
        return SUCCESS

    return (put_on_stream(stream, copy),)


def cudaStreamCreate() -> tuple[int, int]:
    live["stream"] += 1
    return SUCCESS, next(_handles)


def cudaStreamDestroy(stream: int) -> tuple[int]:
    live["stream"] -= 1
    return (SUCCESS,)


def cudaStreamSynchronize(stream: int) -> tuple[int]:
    return (SUCCESS,)


def cudaStreamBeginCapture(stream: int, mode: int) -> tuple[int]:
    _capturing[stream] = []
    return (SUCCESS,)


def cudaStreamEndCapture(stream: int) -> tuple[int, int]:
    work = _capturing.pop(stream)
    if has_fault("no-graph"):
        return CAPTURE_FAILED, 0
    graph = next(_handles)
    _graphs[graph] = work
    live["graph"] += 1
    return SUCCESS, graph


def cudaGraphInstantiate(graph: int, flags: int) -> tuple[int, int]:
    instance = next(_handles)
    _graphs[instance] = list(_graphs[graph])
    live["graph"] += 1
    return SUCCESS, instance


def cudaGraphDestroy(graph: int) -> tuple[int]:
    del _graphs[graph]
    live["graph"] -= 1
    return (SUCCESS,)


def cudaGraphExecDestroy(instance: int) -> tuple[int]:
    return cudaGraphDestroy(instance)


def cudaGraphLaunch(instance: int, stream: int) -> tuple[int]:
    for work in _graphs[instance]:
        if status := work():
            return (status,)
    return (SUCCESS,)


def cudaEventCreate() -> tuple[int, int]:
    live["event"] += 1
    return SUCCESS, next(_handles)


def cudaEventDestroy(event: int) -> tuple[int]:
    live["event"] -= 1
    return (SUCCESS,)


def cudaEventRecord(event: int, stream: int) -> tuple[int]:
    _events[event] = time.perf_counter()
    return (SUCCESS,)


def cudaEventElapsedTime(begin: int, end: int) -> tuple[int, float]:
    return SUCCESS, 1000 * (_events[end] - _events[begin])
