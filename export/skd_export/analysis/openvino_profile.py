"""What became of every operator where OpenVINO runs the file: its own graph, not ONNX Runtime's."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from skd_bench.benchmark.targets import random_clip
from skd_bench.files import sha256_file, write_json
from skd_bench.runtimes.openvino import Executed, OpenVinoSession
from skd_export.analysis.operator_profile import Fate

_WARM, _RUNS = 10, 100
_MOVES = frozenset({
    "Transpose", "Permute", "Reshape", "Reorder", "Concatenation", "Split", "StridedSlice", "Pad", "Gather", "Tile",
    "Broadcast", "Convert", "ShuffleChannels", "SpaceToDepth", "MemoryInput", "MemoryOutput",
})  # fmt: skip
_POINTWISE = frozenset({"Subgraph", "Eltwise", "FakeQuantize", "Convert"})
_TYPES = {"u8": "int8", "i8": "int8", "f16": "fp16", "bf16": "bf16", "f32": "fp32", "f64": "fp64"}
_METHOD = 1  # raised when what is written changes


def openvino_facts(path: Path | str) -> dict[str, Any]:
    """``operators`` and ``fates`` of a file as OpenVINO runs it, found once and kept beside it.

    Args:
        path: An ONNX file; what is found goes to ``<stem>.openvino.json``.

    Returns:
        ``operators``: how often each kind computes, by its type ("Convolution u8"), most first; what only moves bytes
        is left out, because the graph does not say whether it is done in place. ``fates``: those, and moves that took
        time; see `skd_export.analysis.operator_profile.Fate`, as plain mappings.

    Raises:
        UserError: OpenVINO is missing, or cannot run the file.
    """
    path = Path(path)
    note = path.with_suffix(".openvino.json")
    key = f"{_METHOD}:{sha256_file(path)}"
    if (known := _noted(note, key)) is None:
        session = OpenVinoSession(path, 1, profile=True)
        try:
            ran = _profiled(session)
        finally:
            session.close()
        counts = Counter(f"{each.kind} {each.precision}" for each in ran if each.kind not in _MOVES)
        known = {
            "operators": dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
            "fates": [vars(Fate(each.node, each.kind, _ran(each), each.microseconds)) for each in ran],
        }
        write_json(note, {"key": key, "facts": known})
    return known


def _profiled(session: OpenVinoSession) -> list[Executed]:
    """What ran, with the microseconds of a query after warm-up; the plugin's own figures are means of all queries."""
    clip = random_clip(session)
    for _ in range(_WARM):
        session.run(clip)
    cold = session.executed()
    for _ in range(_RUNS):
        session.run(clip)
    took = [
        replace(e, microseconds=max((e.microseconds * (_WARM + _RUNS) - before.microseconds * _WARM) / _RUNS, 0.0))
        for e, before in zip(session.executed(), cold, strict=True)
    ]
    return [e for e in took if e.microseconds or e.kind not in _MOVES]  # the others are of constants, or in place


def _ran(each: Executed) -> str:
    """As `Fate.ran` has it: pointwise work between integers and floats is a conversion."""
    computed, gives = _TYPES.get(each.precision), _TYPES.get(each.gives)
    if each.kind in _POINTWISE and computed and gives and (computed == "int8") != (gives == "int8"):
        return "converted"
    return "reformatted" if each.kind in _MOVES else computed or "other"


def _noted(note: Path, key: str) -> dict[str, Any] | None:
    try:
        noted = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = noted.get("facts") if isinstance(noted, dict) and noted.get("key") == key else None
    return known if isinstance(known, dict) else None
