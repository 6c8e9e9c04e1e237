"""What became of every operator: what ONNX Runtime really ran, node by node, and how much of the time it took."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from skd_bench.errors import UserError

_RUNS = 5
_WARM = 2
_MOVES = frozenset({
    "Transpose", "Reshape", "ReorderInput", "ReorderOutput", "Cast", "Unsqueeze", "Squeeze", "Flatten", "Slice",
    "Concat", "Identity", "Pad", "Split", "Expand", "Gather",
})  # fmt: skip
_CONVERTS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_TYPES = {"float": "fp32", "float16": "fp16", "uint8": "int8", "int8": "int8", "double": "fp64"}


@dataclass(frozen=True)
class Fate:
    """One node as it ran.

    Attributes:
        node: Its name in the optimised graph.
        op: Its kind there; a fused kernel has a kind of its own.
        ran: ``int8``, ``fp16``, ``fp32`` (the type it computed in), ``converted`` (between floats and integers),
            ``reformatted`` (bytes moved, nothing computed) or ``other`` (shapes, indices).
        microseconds: Median of a few runs of one clip; with the profiler's own cost.
    """

    node: str
    op: str
    ran: str
    microseconds: float


def operator_fates(path: Path | str) -> list[Fate]:
    """Run one clip of noise with ONNX Runtime's profiler on one thread, and say of each node what ran.

    An INT8 convolution that fell back shows as a ``Conv`` that ran in ``fp32``. On CPUs FP16 convolutions are widened:
    they show as ``fp32`` between casts.

    Args:
        path: An ONNX file whose input has an open batch.

    Raises:
        UserError: ONNX Runtime cannot load or run the file.
    """
    with tempfile.TemporaryDirectory(prefix="skd-fates-") as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            feeds = {given.name: _noise(given) for given in session.get_inputs()}
            for _ in range(_WARM + _RUNS):
                session.run(None, feeds)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        except (RuntimeError, ValueError) as error:  # what onnxruntime raises derives from these
            raise UserError(f"ONNX Runtime cannot run {path}: {str(error).splitlines()[0]}") from error
    return _fates(events)


def by_kind(fates: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Nodes of one kind and fate together: ``op``, ``ran``, ``nodes`` and ``share`` of the time; the longest first.

    Args:
        fates: As `Fate` has them, as plain mappings.
    """
    groups: dict[tuple[str, str], list[float]] = {}
    for fate in fates:
        groups.setdefault((fate["op"], fate["ran"]), []).append(fate["microseconds"])
    total = sum(map(sum, groups.values())) or 1.0
    rows = [
        {"op": op, "ran": ran, "nodes": len(times), "share": sum(times) / total} for (op, ran), times in groups.items()
    ]
    return sorted(rows, key=lambda row: (-row["share"], row["op"], row["ran"]))


def _fates(events: list[dict[str, Any]]) -> list[Fate]:
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    found: dict[str, list[dict[str, Any]]] = {}
    for event in kernels:
        found.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event)
    fates = []
    for name, each in found.items():
        what = each[0]["args"]
        times = sorted(e["dur"] for e in each[_WARM:])
        fates.append(Fate(name, what["op_name"], _ran(what), float(np.median(times)) if times else 0.0))
    return fates


def _ran(what: dict[str, Any]) -> str:
    op = what["op_name"]
    if op in _CONVERTS:
        return "converted"
    if op in _MOVES:
        return "reformatted"
    types = [next(iter(kind)) for kind in (*what["input_type_shape"][:1], *what["output_type_shape"][:1])]
    computed = [_TYPES[t] for t in types if t in _TYPES]
    return min(computed, key=("int8", "fp16", "fp32", "fp64").index) if computed else "other"


def _noise(given: Any) -> np.ndarray[Any, Any]:
    shape = [n if isinstance(n, int) else 1 for n in given.shape]
    rng = np.random.default_rng(0)
    if given.type == "tensor(uint8)":
        return rng.integers(0, 256, shape, np.uint8)
    return rng.standard_normal(shape, dtype=np.float32)
