"""LiteRT (formerly TensorFlow Lite) on the CPU: .tflite files on its interpreter with the XNNPACK delegate.

LiteRT is one wheel of 22 MB without TensorFlow, for x86 and ARM boards. The files that `skd_export` writes take one
clip at a time: the export folds the frames into the batch axis, which fixes the number of clips.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skd_bench.errors import UserError
from skd_bench.runtimes.base import TensorSpec, check_clip, check_load_arguments, check_logits, first_error_line

_PIP = "pip install 'skd-edge[litert]'"
_DTYPES = ("float32", "float16", "uint8")
# Delegates besides XNNPACK, which LiteRT applies by itself, and why they are not used.
OTHER_DELEGATES = {
    "GPU": "not tried: no GPU that LiteRT supports was at hand",
    "NNAPI": "deprecated since Android 15",
    "Edge TPU": "needs a file of a compiler of its own",
}


class LiteRtRuntime:
    """.tflite files on LiteRT's interpreter."""

    name = "litert"

    def why_unavailable(self) -> str | None:
        """Why LiteRT cannot be used here; None when it can. Imports nothing."""
        if importlib.util.find_spec("ai_edge_litert") is None:
            return f"ai-edge-litert is not installed; {_PIP}"
        return None

    def version(self) -> str | None:
        """The installed version, read from the package's metadata."""
        try:
            return importlib.metadata.version("ai-edge-litert")
        except importlib.metadata.PackageNotFoundError:
            return None

    def import_libraries(self) -> None:
        """Import the interpreter."""
        _import_interpreter()

    def load(self, path: Path, *, threads: int) -> LiteRtSession:
        """Load a .tflite file: see `base.Runtime.load`."""
        reason = self.why_unavailable()
        if reason is not None:
            raise UserError(reason)
        return LiteRtSession(check_load_arguments(path, threads), threads, str(self.version()))


class LiteRtSession:
    """One .tflite file, loaded. With a dynamic batch axis, tensors are allocated again when the batch size changes.

    Args:
        path: The file.
        threads: Threads that a query may use.
        version: LiteRT's version, for messages.

    Raises:
        UserError: The file is not a .tflite model with one input and one float32 output.
    """

    def __init__(self, path: Path, threads: int, version: str) -> None:
        self._path, self._threads, self._version = path, threads, version
        try:
            self._net: Any = _import_interpreter().Interpreter(model_content=path.read_bytes(), num_threads=threads)
            self._input_details, self._output_details = self._net.get_input_details(), self._net.get_output_details()
            self.input, self.output = (
                _read_single_tensor(path, "input", self._input_details),
                _read_single_tensor(path, "output", self._output_details),
            )
            self._batch = 0
            self._allocate_tensors(self.input.shape[0] or 1)
        except (ValueError, RuntimeError, TypeError) as error:  # what its bindings raise
            raise UserError(f"LiteRT {version} cannot load {path}: {first_error_line(error)}") from error
        check_logits(path, self.output)

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Compute the logits of one batch: see `InferenceSession.run`."""
        if self._net is None:
            raise UserError(f"the session of {self._path} is closed")
        check_clip(self._path, self.input, x)
        try:
            if len(x) != self._batch:
                self._allocate_tensors(len(x))
            np.copyto(self._tensor(), x)
            self._net.invoke()
            answer: npt.NDArray[np.float32] = self._net.get_tensor(self._output_details[0]["index"])  # a copy
        except (ValueError, RuntimeError) as error:
            raise UserError(f"LiteRT failed on {self._path}: {first_error_line(error)}") from error
        return answer

    def _allocate_tensors(self, batch: int) -> None:
        """Allocate all tensors for queries of this many clips."""
        index = self._input_details[0]["index"]
        if self.input.shape[0] is None:
            self._net.resize_tensor_input(index, [batch, *(n or 1 for n in self.input.shape[1:])])
        self._net.allocate_tensors()
        self._batch, self._tensor = batch, self._net.tensor(index)

    def runtime_info(self) -> dict[str, object]:
        """Runtime, version, threads, delegates and operators; each DELEGATE is a part that XNNPACK runs."""
        return {
            "runtime": "litert",
            "version": self._version,
            "threads": self._threads,
            "delegate": "XNNPACK",
            "other_delegates": OTHER_DELEGATES,
            "operators": self._count_operators(),
        }

    def _count_operators(self) -> dict[str, int]:
        """The file's operators by kind, and how many parts were delegated; empty where LiteRT does not list them."""
        rows: list[dict[str, Any]] = getattr(
            self._net, "_get_ops_details", list
        )()  # not public, and absent in some versions
        delegates = sum(row.get("op_name") == "DELEGATE" for row in rows)
        counts = Counter(str(row.get("op_name")) for row in rows if row.get("op_name") != "DELEGATE")
        return {"DELEGATE": delegates, **dict(sorted(counts.items()))} if rows else {}

    def close(self) -> None:
        """Free the network; later queries raise a `UserError`."""
        self._net = self._tensor = None


def _import_interpreter() -> Any:
    try:
        return importlib.import_module("ai_edge_litert.interpreter")
    except ImportError as error:  # a shared library is missing or does not fit
        raise UserError(f"ai-edge-litert is installed and does not load: {first_error_line(error)}; {_PIP}") from error


def _read_single_tensor(path: Path, role: str, tensors: list[dict[str, Any]]) -> TensorSpec:
    if len(tensors) != 1:
        raise UserError(f"{path} has {len(tensors)} {role}s, but a video classifier must have one")
    tensor = tensors[0]
    dtype = np.dtype(tensor["dtype"]).name
    if dtype not in _DTYPES:
        raise UserError(f"the {role} {tensor['name']!r} of {path} is {dtype}, but must be {', '.join(_DTYPES)}")
    shape = tuple(None if n < 0 else int(n) for n in tensor["shape_signature"])
    return TensorSpec(str(tensor["name"]), shape, dtype)
