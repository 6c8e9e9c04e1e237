"""The registry of runtimes. A runtime that cannot be used on this machine is also listed, with the reason."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from skd_bench.errors import UserError
from skd_bench.runtimes.base import InferenceSession, Runtime, TensorSpec
from skd_bench.runtimes.litert import LiteRtRuntime
from skd_bench.runtimes.openvino import OpenVinoRuntime, why_no_bfloat16
from skd_bench.runtimes.ort import OrtRuntime
from skd_bench.runtimes.ort_gpu import OrtGpuRuntime, OrtPluginRuntime
from skd_bench.runtimes.tensorrt.runtime import TensorRTRuntime

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "InferenceSession",
    "Runtime",
    "TensorSpec",
    "find_runtime",
    "register_runtime",
    "registered_runtimes",
    "uses_gpu",
    "why_runtime_unavailable",
]

_registered: dict[str, Runtime] = {}


def register_runtime(new: Runtime) -> None:
    """Add a runtime under its name.

    Raises:
        ValueError: A runtime with this name is already registered.
    """
    if new.name in _registered:
        raise ValueError(
            f"the runtime name {new.name!r} is registered already, by {type(_registered[new.name]).__name__}"
        )
    _registered[new.name] = new


def registered_runtimes() -> Mapping[str, Runtime]:
    """All registered runtimes by name, whether they can be used here or not; read-only."""
    return MappingProxyType(_registered)


def why_runtime_unavailable(name: str, precision: str = "") -> str | None:
    """Why the runtime of this name cannot be used here; None when it can.

    Args:
        name: The runtime.
        precision: Of the file to run, where that matters: this machine may have no arithmetic for it.
    """
    if name not in _registered:
        return f"unknown runtime {name!r}"
    reason = _registered[name].why_unavailable()
    return why_no_bfloat16() if reason is None and (name, precision) == ("openvino", "bf16") else reason


def uses_gpu(name: str) -> bool:
    """Whether a runtime runs networks on an NVIDIA GPU, whose logits and clocks are not those of the CPU."""
    return name.startswith(("tensorrt", "ort-cuda", "ort-tensorrt"))


def find_runtime(name: str) -> Runtime:
    """The runtime of this name, ready to load artefacts.

    Raises:
        UserError: The name is unknown, or the runtime cannot be used on this machine; the message lists the runtimes
            that can.
    """
    usable = ", ".join(sorted(n for n, r in _registered.items() if r.why_unavailable() is None)) or "none"
    if name not in _registered:
        raise UserError(f"unknown runtime {name!r}; usable on this machine: {usable}")
    reason = _registered[name].why_unavailable()
    if reason is not None:
        raise UserError(f"the runtime {name!r} cannot be used: {reason}; usable on this machine: {usable}")
    return _registered[name]


register_runtime(OrtRuntime())
register_runtime(OrtGpuRuntime("ort-cuda", "CUDAExecutionProvider"))
register_runtime(OrtGpuRuntime("ort-tensorrt", "TensorrtExecutionProvider"))
register_runtime(OrtPluginRuntime())
register_runtime(OpenVinoRuntime())
register_runtime(LiteRtRuntime())
for flavour in ("tensorrt", "tensorrt-rtx"):
    register_runtime(TensorRTRuntime(flavour))
    register_runtime(TensorRTRuntime(flavour, graphs=False))
