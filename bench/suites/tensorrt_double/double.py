"""A double of TensorRT and of CUDA's Python bindings, for machines without a GPU.

It stands in for the modules `tensorrt` and `cuda.bindings.runtime`: host memory stands for GPU memory, and an engine
answers by ONNX Runtime on the CPU. With it, everything around an engine can be driven on any machine: build, metadata,
CUDA graphs, scoring, choice, bundle. It shows **nothing** about a GPU's speed or logits.

The double is named wherever a runtime is: its version is ``10.13.3+double`` and its GPU is called ``double of a GPU``.
Its engines round their logits to `ANSWER_BITS` bits of mantissa, so that logits of an engine cannot be mistaken for
those of the ONNX file. No latency of it is ever published.

`FAULTS` lists what can be made to fail, as words in the environment variable `FAULTS_VARIABLE`.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

MODULES = Path(__file__).with_name("modules")
FAULTS_VARIABLE = "TENSORRT_DOUBLE_FAULTS"
FAULTS = (
    *("no-builder", "no-runtime", "build-memory", "no-graph", "lost", "no-load", "overflow"),
    *("clock-drift", "throttle", "shared", "lost-later"),
)
_REPLACED = ("tensorrt", "cuda", "sitecustomize", "double_nvml")


def environment(*faults: str) -> dict[str, str]:
    """The environment in which every Python process finds the double instead of the real modules.

    Args:
        faults: Words of `FAULTS`.
    """
    if unknown := set(faults) - set(FAULTS):
        raise ValueError(f"unknown faults {sorted(unknown)}; choose from {', '.join(FAULTS)}")
    path = os.pathsep.join(p for p in (str(MODULES), os.environ.get("PYTHONPATH")) if p)
    return {"PYTHONPATH": path, FAULTS_VARIABLE: " ".join(faults)}


@contextmanager
def installed(*faults: str) -> Iterator[None]:
    """Install the double in this process and in the Python processes that it starts; removed at the end.

    Args:
        faults: Words of `FAULTS`.
    """
    from skd_bench.runtimes.tensorrt.library import import_library

    hidden = {name: sys.modules.pop(name) for name in _loaded()}
    import_library.cache_clear()
    try:
        here = mock.patch.object(sys, "path", [str(MODULES), *sys.path])
        driver = mock.patch.object(ctypes, "CDLL", ctypes.CDLL)  # which sitecustomize replaces until the end
        with mock.patch.dict(os.environ, environment(*faults)), here, driver:
            importlib.import_module("sitecustomize")  # the driver's library
            yield
    finally:
        for name in _loaded():
            sys.modules.pop(name)
        sys.modules.update(hidden)
        import_library.cache_clear()


def _loaded() -> list[str]:
    return [m for m in sys.modules if m.partition(".")[0] in _REPLACED]
