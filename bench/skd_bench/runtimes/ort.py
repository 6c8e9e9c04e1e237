"""ONNX Runtime on the CPU, and the session that its GPU providers (`ort_gpu`) also use."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skd_bench.errors import UserError
from skd_bench.runtimes.base import TensorSpec, check_clip, check_load_arguments, check_logits, first_error_line
from skd_bench.runtimes.query_limit import QueryLimit

_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}
_PIP = "pip install 'skd-edge[ort]' (or onnxruntime-gpu, which brings the same module)"
# Another level gives slightly different logits for the same file, so every measurement uses this one.
_OPTIMISATION_LEVEL = "ORT_ENABLE_ALL"
CPU_PROVIDER = "CPUExecutionProvider"
# It rounds a bias to int32 when a quantised file is loaded, with the product of two scales as its scale. Where scales
# are FP16 (int8-trt, fp8) the product can underflow: an FP8 file's logits were off by their standard deviation (1.32).
DISABLED_OPTIMISERS = ["WeightBiasQuantization"]


class OrtRuntime:
    """ONNX files on ONNX Runtime's CPU provider."""

    name = "ort"
    provider = CPU_PROVIDER

    def why_unavailable(self) -> str | None:
        """Why ONNX Runtime cannot be used here; None when it can. Imports nothing."""
        if importlib.util.find_spec("onnxruntime") is None:
            return f"onnxruntime is not installed; {_PIP}"
        return None

    def version(self) -> str | None:
        """The installed version, read from the package's metadata."""
        for package in ("onnxruntime", "onnxruntime-gpu"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                return importlib.metadata.version(package)
        return None

    def import_libraries(self) -> None:
        """Import onnxruntime."""
        importlib.import_module("onnxruntime")

    def load(self, path: Path, *, threads: int) -> OrtSession:
        """Load an ONNX file: see `base.Runtime.load`."""
        reason = self.why_unavailable()
        if reason is not None:
            raise UserError(reason)
        return OrtSession(check_load_arguments(path, threads), threads, self)

    def configure_providers(self, options: Any) -> dict[str, list[Any]]:
        """The provider arguments of `onnxruntime.InferenceSession`; may also change the session options."""
        return {"providers": [self.provider]}


class OrtSession:
    """One ONNX file, loaded. Input and output stay bound while queries pass the same array.

    Args:
        path: The file.
        threads: Threads that a query may use.
        runtime: The runtime, which chooses the provider.

    Raises:
        UserError: The file is not an ONNX model with one input and one float32 output, or the provider cannot run it.
    """

    def __init__(self, path: Path, threads: int, runtime: OrtRuntime) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _OPTIMISATION_LEVEL)
        options.log_severity_level = 3  # errors only: its warnings about fusion do not help users
        self._spinning = threads > 1
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(self._spinning)))
        # Where the CPU fails there is nothing to fall back to: onnxruntime would print that it tries, and try again.
        fallback = int(runtime.provider != CPU_PROVIDER)
        providers = runtime.configure_providers(options)
        try:
            session = ort.InferenceSession(
                str(path),
                options,
                enable_fallback=fallback,
                disabled_optimizers=DISABLED_OPTIMISERS,
                **providers,
            )
        except Exception as error:  # onnxruntime raises its own unrelated exception types
            raise UserError(f"ONNX Runtime {ort.__version__} cannot load {path}: {first_error_line(error)}") from error
        self._providers: list[str] = session.get_providers()
        if self._providers[0] != runtime.provider:
            # ONNX Runtime only warns and uses the CPU; the CPU's latency would then be reported as the GPU's.
            raise UserError(
                f"ONNX Runtime {ort.__version__} put {path} on {self._providers[0]}, because {runtime.provider} does "
                "not load; if its CUDA libraries are missing, try: import onnxruntime; onnxruntime.preload_dlls()"
            )
        self._session: Any = session
        self._path, self._threads, self._version, self._name = path, threads, str(ort.__version__), runtime.name
        self.input = _read_single_tensor(path, "input", session.get_inputs())
        self.output = _read_single_tensor(path, "output", session.get_outputs())
        check_logits(path, self.output)
        self._binding: Any = session.io_binding()
        self._limit = QueryLimit()
        # Binding an array to a session on a GPU copies it, so a changed array must be bound again for each query.
        self._reads_in_place = runtime.provider == CPU_PROVIDER
        self._bound: npt.NDArray[Any] | None = None
        self._out = np.empty((0, 0), np.float32)

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Compute the logits of one batch: see `InferenceSession.run`."""
        if x is not self._bound:
            self._bind_input(x)
        limit = self._limit
        limit.begin()
        try:
            self._session.run_with_iobinding(self._binding, limit.options)
        except Exception as error:
            raise UserError(f"ONNX Runtime failed on {self._path}: {limit.explain(first_error_line(error))}") from error
        finally:
            limit.end()
        return self._out.copy()

    def _bind_input(self, x: npt.NDArray[Any]) -> None:
        """Make this array the session's input; make a new output array where the batch size changes."""
        if self._session is None:
            raise UserError(f"the session of {self._path} is closed")
        check_clip(self._path, self.input, x)
        flat = np.ascontiguousarray(x)
        self._binding.bind_cpu_input(self.input.name, flat)
        if len(self._out) != len(x):
            self._bind_output(len(x))
        # `bind_cpu_input` does not keep the array alive. Only an array that was bound without a copy stays bound.
        self._bound_copy = flat
        self._bound = x if flat is x and self._reads_in_place else None

    def _bind_output(self, batch: int) -> None:
        import onnxruntime as ort

        self._out = np.empty((batch, self.output.shape[1] or 0), np.float32)
        self._binding.bind_ortvalue_output(self.output.name, ort.OrtValue.ortvalue_from_numpy(self._out))

    def runtime_info(self) -> dict[str, object]:
        """Runtime, version, provider, threads, spinning and optimisation level."""
        return {
            "runtime": self._name,
            "version": self._version,
            "provider": self._providers[0],
            "intra_op_threads": self._threads,
            "inter_op_threads": 1,
            "spinning": self._spinning,
            "optimisation": _OPTIMISATION_LEVEL,
        }

    def close(self) -> None:
        """Free the network; later queries raise a `UserError`."""
        self._limit.close()
        self._session = self._binding = self._bound = None


def _read_single_tensor(path: Path, role: str, tensors: list[Any]) -> TensorSpec:
    if len(tensors) != 1:
        raise UserError(f"{path} has {len(tensors)} {role}s, but a video classifier must have one")
    tensor = tensors[0]
    try:  # onnxruntime decodes the names of the tensor and of its axes now
        name, kind = str(tensor.name), str(tensor.type)
        shape = tuple(d if isinstance(d, int) else None for d in tensor.shape)
    except UnicodeError:
        raise UserError(f"a name in the {role} of {path} is not UTF-8; the file is damaged: copy it again") from None
    if kind not in _DTYPES:
        raise UserError(f"the {role} {name!r} of {path} is {kind}, but must be {', '.join(_DTYPES)}")
    return TensorSpec(name, shape, _DTYPES[kind])
