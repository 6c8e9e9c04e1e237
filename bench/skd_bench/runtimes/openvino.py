"""OpenVINO on the CPU: another runtime for the same ONNX files.

On x86 it is often the fastest runtime, above all for INT8 (docs/measuring.md has measurements of one machine). For an
INT8 file, its logits differ from ONNX Runtime's by up to one quantisation step. Accuracy is therefore reported for a
file together with its runtime.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skd_bench.errors import UserError
from skd_bench.runtimes.base import TensorSpec, check_clip, check_load_arguments, check_logits, first_error_line

_PIP = "pip install 'skd-edge[openvino]'"
_TELEMETRY = "openvino_telemetry"
_DTYPES = {"f32": "float32", "f16": "float16", "u8": "uint8"}
# One query at a time. FP32 is requested because OpenVINO would compute an FP32 file in bfloat16 on a CPU that supports
# it; a BF16 file is computed in bfloat16 all the same. Threads are not pinned to cores, because another process may use
# the same core: on a busy machine a query took 28 ms, not 0.3.
_CONFIG = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": 1,
    "INFERENCE_PRECISION_HINT": "f32",
    "ENABLE_CPU_PINNING": False,
}
_NO_BFLOAT16 = (
    "OpenVINO would compute it in FP32 here: this CPU has no bfloat16 arithmetic (on x86: AVX512-BF16 or AMX-BF16)"
)
_BOUNDARY_KINDS = {"Const", "Input", "Output"}
_MAX_COMPILED = 8  # compiled networks, one for each batch size


def why_no_bfloat16() -> str | None:
    """Why OpenVINO cannot compute in bfloat16 on this machine; None when it can."""
    if reason := OpenVinoRuntime().why_unavailable():
        return reason
    return None if _has_bfloat16(_import_openvino().Core()) else _NO_BFLOAT16


def _has_bfloat16(core: Any) -> bool:
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoRuntime:
    """ONNX files on OpenVINO's CPU plugin."""

    name = "openvino"

    def why_unavailable(self) -> str | None:
        """Why OpenVINO cannot be used here; None when it can. Imports nothing."""
        if importlib.util.find_spec("openvino") is None:
            return f"openvino is not installed; {_PIP}"
        return None

    def version(self) -> str | None:
        """The installed version, read from the package's metadata."""
        try:
            return importlib.metadata.version("openvino")
        except importlib.metadata.PackageNotFoundError:
            return None

    def import_libraries(self) -> None:
        """Import openvino."""
        _import_openvino()

    def load(self, path: Path, *, threads: int) -> OpenVinoSession:
        """Load an ONNX file: see `base.Runtime.load`."""
        reason = self.why_unavailable()
        if reason is not None:
            raise UserError(reason)
        return OpenVinoSession(check_load_arguments(path, threads), threads)


@dataclass(frozen=True)
class ExecutedLayer:
    """One layer of the compiled network.

    Attributes:
        name: Its name in the compiled network.
        kind: OpenVINO's layer type, such as "Convolution"; "Subgraph" is a group of fused pointwise operators.
        precision: The type of its computation in OpenVINO's terms: u8, i8, f32.
        output_precision: The type of its output.
        microseconds: Mean over all queries so far, each rounded down to whole microseconds. It is 0 for layers that
            take less than one microsecond or need no computation (a reshape in place).
    """

    name: str
    kind: str
    precision: str
    output_precision: str
    microseconds: float


class OpenVinoSession:
    """One ONNX file, compiled for each batch size: with a dynamic batch axis a query would be up to 3 times slower.

    Loading compiles it for one clip. The first query with another batch size compiles it again.

    Args:
        path: The file.
        threads: Threads that a query may use.
        profile: Whether to measure the times for `executed_layers`; queries are then slower.

    Raises:
        UserError: The file is not an ONNX model with one input and one float32 output.
    """

    def __init__(self, path: Path, threads: int, *, profile: bool = False) -> None:
        ov = _import_openvino()
        self._path, self._threads, self._version = path, threads, str(ov.get_version())
        self._profile = {"PERF_COUNT": True} if profile else {}
        self._core: Any = ov.Core()
        try:
            # Only the ONNX reader: `read_model` would try all formats that it knows on a file of unknown origin.
            reader = importlib.import_module("openvino.frontend").FrontEndManager().load_by_framework("onnx")
            self._model: Any = reader.convert(reader.load(str(path)))
        except Exception as error:  # OpenVINO raises several unrelated types
            raise self._make_load_error(error) from error
        self._check_bfloat16()
        self.input = _read_single_tensor(path, "input", self._model.inputs)
        self.output = _read_single_tensor(path, "output", self._model.outputs)
        check_logits(path, self.output)
        self._requests: dict[int, tuple[Any, npt.NDArray[np.float32]]] = {}
        self._bound: npt.NDArray[Any] | None = None
        self._request: Any = None
        self._out = np.empty((0, 0), np.float32)
        if None not in self.input.shape[1:]:
            self._compile_request(self.input.shape[0] or 1)

    def _check_bfloat16(self) -> None:
        """Refuse a BF16 file on a CPU that computes it in FP32: it would be neither faster nor rounded as it says."""
        types = {str(op.get_output_element_type(0).to_string()) for op in self._model.get_ops() if op.outputs()}
        if "bf16" in types and not _has_bfloat16(self._core):
            raise UserError(f"{self._path} is a BF16 file, and {_NO_BFLOAT16}; use the FP32 file")

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Compute the logits of one batch: see `InferenceSession.run`."""
        if x is not self._bound:
            self._bind_input(x)
        try:
            self._request.infer()
        except Exception as error:
            raise UserError(f"OpenVINO failed on {self._path}: {first_error_line(error)}") from error
        return self._out.copy()

    def _bind_input(self, x: npt.NDArray[Any]) -> None:
        """Make this array the input of the network that is compiled for its batch size."""
        if self._core is None:
            raise UserError(f"the session of {self._path} is closed")
        check_clip(self._path, self.input, x)
        if None in self.input.shape[1:]:
            raise UserError(f"{self._path} takes clips of any size {self.input.shape}; export it with a fixed size")
        flat = np.ascontiguousarray(x)
        self._request, self._out = self._compile_request(len(x))
        self._request.set_input_tensor(_import_openvino().Tensor(flat, shared_memory=True))
        self._bound_copy = flat
        self._bound = x if flat is x else None

    def _compile_request(self, batch: int) -> tuple[Any, npt.NDArray[np.float32]]:
        """The inference request for a batch size, and the array that its logits are written to."""
        if batch not in self._requests:
            if len(self._requests) == _MAX_COMPILED:
                self._requests.pop(next(iter(self._requests)))
            try:
                model = self._model.clone()
                model.reshape([batch, *(n or 1 for n in self.input.shape[1:])])
                config = {**_CONFIG, "INFERENCE_NUM_THREADS": self._threads, **self._profile}
                compiled = self._core.compile_model(model, "CPU", config)
            except Exception as error:
                raise self._make_load_error(error) from error
            request, out = compiled.create_infer_request(), np.empty((batch, self.output.shape[1] or 0), np.float32)
            request.set_output_tensor(0, _import_openvino().Tensor(out, shared_memory=True))
            self._requests[batch] = request, out
        return self._requests[batch]

    def _make_load_error(self, error: Exception) -> UserError:
        return UserError(f"OpenVINO {self._version} cannot load {self._path}: {first_error_line(error)}")

    def runtime_info(self) -> dict[str, object]:
        """Runtime, version, threads, settings, and the number of executed operators by kind and precision."""
        settings = {key.lower(): value for key, value in _CONFIG.items()}
        return {
            "runtime": "openvino",
            "version": self._version,
            "threads": self._threads,
            **settings,
            "operators": self._count_operators(),
        }

    def _count_operators(self) -> dict[str, int]:
        """The number of operators by kind and precision, in the network compiled for the first batch size."""
        layers = (info for _, info in self._read_layer_properties())
        names = ((n["layerType"], n["runtimePrecision"]) for n in layers if "layerType" in n)
        return dict(sorted(Counter(f"{kind} {precision}" for kind, precision in names).items()))

    def executed_layers(self) -> list[ExecutedLayer]:
        """The layers of the network compiled for the first batch size, in order; times need `profile`."""
        layers = (
            (name, n) for name, n in self._read_layer_properties() if n.get("layerType", "Const") not in _BOUNDARY_KINDS
        )
        return [
            ExecutedLayer(
                name,
                n["layerType"],
                n["runtimePrecision"],
                n["outputPrecisions"].split(",")[0],
                float(took) if (took := n["execTimeMcs"]).isdecimal() else 0.0,
            )
            for name, n in layers
        ]

    def _read_layer_properties(self) -> list[tuple[str, dict[str, str]]]:
        """Name and properties of each layer of the network that was compiled for the first batch size."""
        if not self._requests:
            return []
        request, _ = next(iter(self._requests.values()))
        ops = request.get_compiled_model().get_runtime_model().get_ordered_ops()
        keys = ("layerType", "runtimePrecision", "outputPrecisions", "execTimeMcs")
        infos = ((op.get_friendly_name(), op.get_rt_info()) for op in ops)
        return [(name, {k: info[k].astype(str) for k in keys if k in info}) for name, info in infos]

    def close(self) -> None:
        """Free the network; later queries raise a `UserError`."""
        self._core = self._model = self._request = self._bound = None
        self._requests = {}


def _import_openvino() -> Any:
    """Import openvino without its telemetry, which would report to Intel and write into the home folder."""
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    sys.modules.setdefault(_TELEMETRY, None)  # type: ignore[arg-type]  # None makes the import fail
    try:
        return importlib.import_module("openvino")
    except Exception as error:  # a shared library is missing or does not fit
        raise UserError(f"openvino is installed and does not load: {first_error_line(error)}; {_PIP}") from error
    finally:
        if sys.modules.get(_TELEMETRY, ...) is None:
            del sys.modules[_TELEMETRY]


def _read_single_tensor(path: Path, role: str, ports: list[Any]) -> TensorSpec:
    if len(ports) != 1:
        raise UserError(f"{path} has {len(ports)} {role}s, but a video classifier must have one")
    port = ports[0]
    kind = str(port.get_element_type().to_string())
    if kind not in _DTYPES:
        raise UserError(f"the {role} {port.any_name!r} of {path} is {kind}, but must be {', '.join(_DTYPES)}")
    shape = tuple(None if d.is_dynamic else int(d.get_length()) for d in port.get_partial_shape())
    return TensorSpec(port.any_name, shape, _DTYPES[kind])
