"""Operator profiles: which nodes ONNX Runtime executes, in which type, and how long each takes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import onnxruntime as ort

from skd_bench.errors import UserError
from skd_bench.runtimes.base import first_error_line
from skd_bench.runtimes.ort import CPU_PROVIDER, DISABLED_OPTIMISERS

_PROFILED_RUNS = 5
_WARMUP_RUNS = 2
_DATA_MOVEMENT_OPERATORS = frozenset(
    {
        "Transpose",
        "Reshape",
        "ReorderInput",
        "ReorderOutput",
        "Cast",
        "Unsqueeze",
        "Squeeze",
        "Flatten",
        "Slice",
        "Concat",
        "Identity",
        "Pad",
        "Split",
        "Expand",
        "Gather",
    }
)
_CONVERSION_OPERATORS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_TYPES = {"float": "fp32", "float16": "fp16", "uint8": "int8", "int8": "int8", "double": "fp64"}


class OperatorProfile(TypedDict):
    """One executed node, as it is written to JSON.

    Attributes:
        node: Its name in the optimised graph.
        op: Its operator there; fused kernels have operator names of their own.
        ran: The type it computed in (``int8``, ``fp16``, ``fp32``, ...), ``converted`` (between floats and integers),
            ``reformatted`` (data movement without computation) or ``other`` (shapes, indices).
        microseconds: Median over a few runs of one clip, including the profiler's overhead.
    """

    node: str
    op: str
    ran: str
    microseconds: float


class OperatorGroup(TypedDict):
    """The executed nodes with the same operator and the same ``ran``.

    Attributes:
        op: Their operator.
        ran: See `OperatorProfile`.
        nodes: How many they are.
        share: Their share of the total time, in 0..1.
    """

    op: str
    ran: str
    nodes: int
    share: float


class _KernelArguments(TypedDict):
    """What the profiler stores of a kernel: its operator, and type and shape of each input and output."""

    op_name: str
    input_type_shape: list[dict[str, list[int]]]
    output_type_shape: list[dict[str, list[int]]]


class _ProfilerEvent(TypedDict):
    """An event in the profiler's file; ``dur`` is in microseconds. Events of other categories have other arguments."""

    cat: str
    name: str
    dur: int
    args: _KernelArguments


def profile_operators(path: Path | str) -> list[OperatorProfile]:
    """Run one clip of random numbers with ONNX Runtime's profiler on one thread.

    An INT8 convolution that fell back appears as a ``Conv`` that ran in ``fp32``. On CPUs, FP16 convolutions are
    converted: they appear as ``fp32`` between casts.

    Args:
        path: An ONNX file; dynamic dimensions of its inputs are set to 1.

    Returns:
        One profile for each executed node.

    Raises:
        UserError: ONNX Runtime cannot load or run the file.
    """
    with tempfile.TemporaryDirectory(prefix="skd-profile-") as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            session = ort.InferenceSession(
                str(path),
                options,
                providers=[CPU_PROVIDER],
                enable_fallback=0,
                disabled_optimizers=DISABLED_OPTIMISERS,
            )
            feeds = {model_input.name: _make_noise_input(model_input) for model_input in session.get_inputs()}
            for _ in range(_WARMUP_RUNS + _PROFILED_RUNS):
                session.run(None, feeds)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        except Exception as error:  # onnxruntime raises its own unrelated exception types
            raise UserError(f"ONNX Runtime cannot run {path}: {first_error_line(error)}") from error
    return _parse_profiler_events(events)


def group_by_operator(profiles: Iterable[OperatorProfile]) -> list[OperatorGroup]:
    """Group profiles with the same operator and the same ``ran``; the group with the largest share of time is first."""
    groups: dict[tuple[str, str], list[float]] = {}
    for profile in profiles:
        groups.setdefault((profile["op"], profile["ran"]), []).append(profile["microseconds"])
    total = sum(map(sum, groups.values())) or 1.0
    rows: list[OperatorGroup] = [
        {"op": op, "ran": ran, "nodes": len(times), "share": sum(times) / total} for (op, ran), times in groups.items()
    ]
    return sorted(rows, key=lambda row: (-row["share"], row["op"], row["ran"]))


def _parse_profiler_events(events: list[_ProfilerEvent]) -> list[OperatorProfile]:
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    events_by_node: dict[str, list[_ProfilerEvent]] = {}
    for event in kernels:
        events_by_node.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event)
    profiles: list[OperatorProfile] = []
    for name, node_events in events_by_node.items():
        arguments = node_events[0]["args"]
        times = sorted(e["dur"] for e in node_events[_WARMUP_RUNS:])
        profiles.append(
            {
                "node": name,
                "op": arguments["op_name"],
                "ran": _classify_computation(arguments),
                "microseconds": float(np.median(times)) if times else 0.0,
            }
        )
    return profiles


def _classify_computation(arguments: _KernelArguments) -> str:
    op = arguments["op_name"]
    if op in _CONVERSION_OPERATORS:
        return "converted"
    if op in _DATA_MOVEMENT_OPERATORS:
        return "reformatted"
    types = [next(iter(kind)) for kind in (*arguments["input_type_shape"][:1], *arguments["output_type_shape"][:1])]
    computed = [_TYPES[t] for t in types if t in _TYPES]
    return min(computed, key=("int8", "fp16", "fp32", "fp64").index) if computed else "other"


def _make_noise_input(model_input: Any) -> np.ndarray[Any, Any]:
    shape = [n if isinstance(n, int) else 1 for n in model_input.shape]
    rng = np.random.default_rng(0)
    if model_input.type == "tensor(uint8)":
        return rng.integers(0, 256, shape, np.uint8)
    return rng.standard_normal(shape, dtype=np.float32)
