"""Operator profiles of a file on OpenVINO, whose executed graph differs from ONNX Runtime's."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, cast

from skd_bench.files import sha256_file, write_json
from skd_bench.runtimes.base import make_random_clip
from skd_bench.runtimes.openvino import ExecutedLayer, OpenVinoSession
from skd_export.analysis.operator_profile import OperatorProfile

_WARMUP_RUNS, _PROFILED_RUNS = 10, 100
_DATA_MOVEMENT_OPERATORS = frozenset(
    {
        "Transpose",
        "Permute",
        "Reshape",
        "Reorder",
        "Concatenation",
        "Split",
        "StridedSlice",
        "Pad",
        "Gather",
        "Tile",
        "Broadcast",
        "Convert",
        "ShuffleChannels",
        "SpaceToDepth",
        "MemoryInput",
        "MemoryOutput",
    }
)
_POINTWISE_OPERATORS = frozenset({"Subgraph", "Eltwise", "FakeQuantize", "Convert"})
_TYPES = {"u8": "int8", "i8": "int8", "f16": "fp16", "bf16": "bf16", "f32": "fp32", "f64": "fp64"}
_CACHE_VERSION = 1  # raise it when the content of the cache file changes


class OpenVinoProfile(TypedDict):
    """What OpenVINO executes, as it is written to the cache file.

    Attributes:
        operators: How often each operator computes in each type ("Convolution u8"), most frequent first. Operators
            that only move bytes are not counted, because the graph does not show whether they run in place.
        fates: The profiles of these operators, and of moves that took time.
    """

    operators: dict[str, int]
    fates: list[OperatorProfile]


def profile_with_openvino(path: Path | str) -> OpenVinoProfile:
    """Profile a file on OpenVINO; the result is cached beside the file.

    Args:
        path: An ONNX file; the cache file is ``<stem>.openvino.json``.

    Raises:
        UserError: OpenVINO is missing, or cannot load or run the file.
    """
    path = Path(path)
    cache_file = path.with_suffix(".openvino.json")
    key = f"{_CACHE_VERSION}:{sha256_file(path)}"
    if (profile := _read_cached_profile(cache_file, key)) is None:
        session = OpenVinoSession(path, 1, profile=True)
        try:
            executed = _measure_executed_nodes(session)
        finally:
            session.close()
        counts = Counter(
            f"{node.kind} {node.precision}" for node in executed if node.kind not in _DATA_MOVEMENT_OPERATORS
        )
        profile = {
            "operators": dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
            "fates": [
                {
                    "node": node.name,
                    "op": node.kind,
                    "ran": _classify_computation(node),
                    "microseconds": node.microseconds,
                }
                for node in executed
            ],
        }
        write_json(cache_file, {"key": key, "facts": profile})
    return profile


def _measure_executed_nodes(session: OpenVinoSession) -> list[ExecutedLayer]:
    """Executed layers with their microseconds for one query, warm-up excluded.

    OpenVINO reports means over all queries so far, so the warm-up's share is subtracted.
    """
    clip = make_random_clip(session)
    for _ in range(_WARMUP_RUNS):
        session.run(clip)
    warmup = session.executed_layers()
    for _ in range(_PROFILED_RUNS):
        session.run(clip)
    measured = []
    for layer, before in zip(session.executed_layers(), warmup, strict=True):
        total = layer.microseconds * (_WARMUP_RUNS + _PROFILED_RUNS) - before.microseconds * _WARMUP_RUNS
        measured.append(replace(layer, microseconds=max(total / _PROFILED_RUNS, 0.0)))
    # Data movement that took no time was done in place, or once for constants.
    return [layer for layer in measured if layer.microseconds or layer.kind not in _DATA_MOVEMENT_OPERATORS]


def _classify_computation(node: ExecutedLayer) -> str:
    """The value of `OperatorProfile.ran`. A pointwise operator between integers and floats is a conversion."""
    compute_type, output_type = _TYPES.get(node.precision), _TYPES.get(node.output_precision)
    if (
        node.kind in _POINTWISE_OPERATORS
        and compute_type
        and output_type
        and (compute_type == "int8") != (output_type == "int8")
    ):
        return "converted"
    return "reformatted" if node.kind in _DATA_MOVEMENT_OPERATORS else compute_type or "other"


def _read_cached_profile(cache_file: Path, key: str) -> OpenVinoProfile | None:
    try:
        content = json.loads(cache_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    profile = content.get("facts") if isinstance(content, dict) and content.get("key") == key else None
    return cast(OpenVinoProfile, profile) if isinstance(profile, dict) else None
