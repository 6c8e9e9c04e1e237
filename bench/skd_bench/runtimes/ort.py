"""ONNX Runtime on the CPU."""

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
from skd_bench.runtimes.base import TensorSpec

_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}
_PIP = "pip install 'skd-edge[ort]' (or onnxruntime-gpu, which brings the same module)"
# Same file, other level, other answers (notes/export.md): the level is part of the artefact.
_LEVEL = "ORT_ENABLE_ALL"


class OrtRuntime:
    """ONNX files on ONNX Runtime's CPU provider."""

    name = "ort"

    def missing(self) -> str | None:
        """Why ONNX Runtime cannot be used here; None when it can. Imports nothing."""
        if importlib.util.find_spec("onnxruntime") is None:
            return f"onnxruntime is not installed; {_PIP}"
        return None

    def version(self) -> str | None:
        """The installed version, from its metadata: nothing is imported."""
        for package in ("onnxruntime", "onnxruntime-gpu"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                return importlib.metadata.version(package)
        return None

    def prepare(self) -> None:
        """Import onnxruntime."""
        importlib.import_module("onnxruntime")

    def load(self, path: Path, *, threads: int) -> OrtSession:
        """Load an ONNX file: see `base.Runtime.load`."""
        reason = self.missing()
        if reason is not None:
            raise UserError(reason)
        if threads < 1:
            raise UserError(f"a session needs at least 1 thread, not {threads}")
        path = Path(path)
        if not path.is_file():
            raise UserError(f"there is no artefact {path}")
        return OrtSession(path, threads)


class OrtSession:
    """One ONNX file, loaded; input and output stay bound between queries of equal shape.

    Raises:
        UserError: The file is no ONNX model with one input and one float32 output.
    """

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVEL)
        options.log_severity_level = 3  # errors only: its warnings about fusing say nothing to a user
        self._spinning = threads > 1
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(self._spinning)))
        try:
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own unrelated exception types
            raise UserError(f"ONNX Runtime {ort.__version__} cannot load {path}: {_first_line(error)}") from error
        self._session: Any = session
        self._path, self._threads, self._version = path, threads, str(ort.__version__)
        self.input = _only(path, "input", session.get_inputs())
        self.output = _only(path, "output", session.get_outputs())
        if self.output.dtype != "float32" or len(self.output.shape) != 2:
            raise UserError(
                f"{path} gives {self.output.dtype} {self.output.shape}; logits are float32 (batch, classes)"
            )
        self._binding: Any = session.io_binding()
        self._bound: npt.NDArray[Any] | None = None
        self._out = np.empty((0, 0), np.float32)
        self._dtype = np.dtype(self.input.dtype)

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Answer one batch: see `base.Session.run`."""
        if x is not self._bound:
            self._bind(x)
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise UserError(f"ONNX Runtime failed on {self._path}: {_first_line(error)}") from error
        return self._out.copy()

    def _bind(self, x: npt.NDArray[Any]) -> None:
        """Point the session at this array; at a new output array too where the batch changes."""
        if self._session is None:
            raise UserError(f"the session of {self._path} is closed")
        fits = x.ndim == len(self.input.shape) and all(
            want in (None, have) for want, have in zip(self.input.shape, x.shape, strict=True)
        )
        if not fits or x.dtype != self._dtype or x.size == 0:
            raise UserError(
                f"{self._path} takes {self.input.dtype} {self.input.shape}, not {x.dtype} {x.shape}; "
                "prepare the clip with the preprocessing of the artefact's manifest"
            )
        flat = np.ascontiguousarray(x)
        self._binding.bind_cpu_input(self.input.name, flat)
        if len(self._out) != len(x):
            self._bind_output(len(x))
        # `bind_cpu_input` does not keep the array alive; only an array bound as it is may be recognised later.
        self._keep = flat
        self._bound = x if flat is x else None

    def _bind_output(self, batch: int) -> None:
        import onnxruntime as ort

        classes = self.output.shape[1]
        if classes is None:
            raise UserError(f"{self._path} does not say how many classes it has; export it with a fixed class axis")
        self._out = np.empty((batch, classes), np.float32)
        self._binding.bind_ortvalue_output(self.output.name, ort.OrtValue.ortvalue_from_numpy(self._out))

    def facts(self) -> dict[str, object]:
        """Runtime, version, provider, threads, spinning, optimisation level."""
        return {
            "runtime": "ort",
            "version": self._version,
            "provider": "CPUExecutionProvider",
            "intra_op_threads": self._threads,
            "inter_op_threads": 1,
            "spinning": self._spinning,
            "optimisation": _LEVEL,
        }

    def close(self) -> None:
        """Free the network; the session answers no more."""
        self._session = self._binding = self._bound = None


def _only(path: Path, what: str, nodes: list[Any]) -> TensorSpec:
    if len(nodes) != 1:
        raise UserError(f"{path} has {len(nodes)} {what}s; a clip network has one")
    node = nodes[0]
    if node.type not in _DTYPES:
        raise UserError(f"the {what} {node.name!r} of {path} is a {node.type}; known are {', '.join(_DTYPES)}")
    return TensorSpec(node.name, tuple(d if isinstance(d, int) else None for d in node.shape), _DTYPES[node.type])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
