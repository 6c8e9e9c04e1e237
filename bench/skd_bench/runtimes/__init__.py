"""Every runtime by its name; one that cannot be used here stays listed, with its reason."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from skd_bench.errors import UserError
from skd_bench.runtimes.base import Runtime, Session, TensorSpec
from skd_bench.runtimes.litert import LiteRtRuntime
from skd_bench.runtimes.openvino import OpenVinoRuntime
from skd_bench.runtimes.ort import OrtRuntime
from skd_bench.runtimes.ort_gpu import OrtGpuRuntime, OrtPluginRuntime
from skd_bench.runtimes.tensorrt.runtime import TensorRTRuntime
from skd_bench.runtimes.torch import TorchRuntime

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Runtime", "Session", "TensorSpec", "missing", "register", "runtime", "runtimes"]

_known: dict[str, Runtime] = {}


def register(new: Runtime) -> None:
    """Add a runtime under its name.

    Raises:
        ValueError: Another one has that name.
    """
    if new.name in _known:
        raise ValueError(f"a runtime called {new.name!r} is registered already: {type(_known[new.name]).__name__}")
    _known[new.name] = new


def runtimes() -> Mapping[str, Runtime]:
    """Every registered runtime by its name, usable here or not; read-only."""
    return MappingProxyType(_known)


def missing(name: str) -> str | None:
    """Why the runtime of that name cannot be used here, or None."""
    return f"there is no runtime {name!r}" if name not in _known else _known[name].missing()


def runtime(name: str) -> Runtime:
    """The runtime of that name, ready to load artefacts.

    Raises:
        UserError: There is none of that name, or it cannot be used on this machine; says which can.
    """
    usable = ", ".join(sorted(n for n, r in _known.items() if r.missing() is None)) or "none"
    if name not in _known:
        raise UserError(f"there is no runtime {name!r}; usable on this machine: {usable}")
    reason = _known[name].missing()
    if reason is not None:
        raise UserError(f"the runtime {name!r} cannot be used: {reason}; usable on this machine: {usable}")
    return _known[name]


register(OrtRuntime())
register(OrtGpuRuntime("ort-cuda", "CUDAExecutionProvider"))
register(OrtGpuRuntime("ort-tensorrt", "TensorrtExecutionProvider"))
register(OrtPluginRuntime())
register(OpenVinoRuntime())
register(LiteRtRuntime())
for flavour in ("tensorrt", "tensorrt-rtx"):
    register(TensorRTRuntime(flavour))
    register(TensorRTRuntime(flavour, graphs=False))
register(TorchRuntime("torch-eager"))
register(TorchRuntime("torch-compile"))
