"""The kind, precision and format of each layer of a TensorRT engine, from TensorRT's engine inspector.

The inspector needs a loaded engine and therefore a GPU; `inspect_layers` has not been run on a GPU yet. The tests of
`summarise_layers` use the JSON layout that NVIDIA documents (TensorRT's developer guide, "Engine Inspector").
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, TypedDict

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


class LayerCount(TypedDict):
    """Layers of one kind, as a JSON object: `ran` is their precision, `nodes` their number."""

    op: str
    ran: str
    format: str
    nodes: int


def inspect_layers(trt: Any, engine: Any, context: Any) -> list[LayerCount]:
    """The layers of an engine on this machine's GPU: see `summarise_layers`.

    Args:
        trt: The imported TensorRT module.
        engine: The loaded engine.
        context: An execution context of the engine with the input's shape set: the formats depend on it.

    Returns:
        The rows; an empty list where the library has no inspector.
    """
    inspector = engine.create_engine_inspector()
    if inspector is None:
        return []
    inspector.execution_context = context
    return summarise_layers(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def summarise_layers(inspector_json: str) -> list[LayerCount]:
    """Count layers by kind, precision and format.

    Args:
        inspector_json: The inspector's JSON text. An engine that was built without ``DETAILED`` verbosity contains only
            the names of its layers; their kind, precision and format are then "unknown".

    Returns:
        The rows, the largest number of layers first.
    """
    layers = json.loads(inspector_json or "{}").get("Layers", [])
    counted = Counter(_classify_layer(layer) for layer in layers)
    rows: list[LayerCount] = [
        {"op": op, "ran": ran, "format": tensor_format, "nodes": n} for (op, ran, tensor_format), n in counted.items()
    ]
    return sorted(rows, key=lambda row: (-row["nodes"], row["op"], row["ran"], row["format"]))


def _read_format(tensor: Any) -> str:
    """Type and layout of a tensor: one field in TensorRT 10, two in TensorRT 11."""
    if "Format/Datatype" in tensor:
        return str(tensor["Format/Datatype"])
    parts = (tensor.get("Datatype") or tensor.get("DataType"), tensor.get("Format"))
    return " ".join(str(part) for part in parts if part)


def _classify_layer(layer: Any) -> tuple[str, str, str]:
    if not isinstance(layer, dict):
        return "unknown", "unknown", "unknown"
    kind = str(layer.get("LayerType", "unknown"))
    output_format = next((_read_format(x) for x in layer.get("Outputs", [])), "") or "unknown"
    if any(word in kind.lower() for word in _DATA_MOVEMENT_WORDS):
        return kind, "reformatted", output_format
    input_format = next((_read_format(x) for x in layer.get("Inputs", [])), "")
    # The input's type is the type of the computation: an INT8 convolution may write floats.
    precisions = (name for text in (input_format, output_format) for word, name in _PRECISIONS if word in text.upper())
    return kind, next(precisions, "other"), output_format
