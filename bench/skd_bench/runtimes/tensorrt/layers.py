"""What a TensorRT engine's layers really are, from its inspector: kind, precision, format of each.

The inspector wants a deserialised engine, and that wants a GPU: no GPU has run :func:`inspect` here. What it reads is
documented by NVIDIA (TensorRT's developer guide, "Engine Inspector"), and :func:`layers_of` is held to that.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

_PRECISIONS = (
    ("INT8", "int8"),
    ("FP8", "fp8"),
    ("FP16", "fp16"),
    ("HALF", "fp16"),
    ("BF16", "bf16"),
    ("FP32", "fp32"),
    ("FLOAT", "fp32"),
)
_DATA_MOVEMENT_WORDS = ("reformat", "shuffle", "slice", "concat", "noop", "copy", "cast", "reorg")


def inspect_layers(trt: Any, engine: Any, context: Any) -> list[dict[str, Any]]:
    """The layers of an engine on this machine's GPU, see :func:`layers_of`; empty where the library tells none.

    Args:
        trt: The imported module.
        engine: Deserialised.
        context: Of the engine, its input's shape set: formats depend on it.
    """
    inspector = engine.create_engine_inspector()
    if inspector is None:
        return []
    inspector.execution_context = context
    return summarise_layers(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def summarise_layers(inspector_json: str) -> list[dict[str, Any]]:
    """Layers of one kind, precision and format together: ``op``, ``ran``, ``format``, ``nodes``; the most first.

    Args:
        inspector_json: What the inspector says as JSON. An engine that was built without ``DETAILED`` verbosity has names alone:
            ``op`` is then "unknown".
    """
    layers = json.loads(inspector_json or "{}").get("Layers", [])
    counted = Counter(_classify_layer(layer) for layer in layers)
    rows = [
        {"op": op, "ran": ran, "format": tensor_format, "nodes": n} for (op, ran, tensor_format), n in counted.items()
    ]
    return sorted(rows, key=lambda row: (-row["nodes"], row["op"], row["ran"], row["format"]))


def _classify_layer(layer: Any) -> tuple[str, str, str]:
    if not isinstance(layer, dict):
        return "unknown", "unknown", "unknown"
    kind = str(layer.get("LayerType", "unknown"))
    output_format = next((str(x.get("Format/Datatype", "")) for x in layer.get("Outputs", [])), "") or "unknown"
    if any(word in kind.lower() for word in _DATA_MOVEMENT_WORDS):
        return kind, "reformatted", output_format
    input_format = next((str(x.get("Format/Datatype", "")) for x in layer.get("Inputs", [])), "")
    # A layer computes in the type that it reads: an INT8 convolution may write floats.
    precisions = (name for text in (input_format, output_format) for word, name in _PRECISIONS if word in text.upper())
    return kind, next(precisions, "other"), output_format
