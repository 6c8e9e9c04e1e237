"""What a TensorRT engine's layers really are, from its inspector: kind, precision, format of each.

The inspector wants a deserialised engine, and that wants a GPU: no GPU has run :func:`inspect` here. What it reads is
documented by NVIDIA (TensorRT's developer guide, "Engine Inspector"), and :func:`layers_of` is held to that.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

_PRECISIONS = (("INT8", "int8"), ("FP8", "fp8"), ("FP16", "fp16"), ("HALF", "fp16"), ("BF16", "bf16"),
               ("FP32", "fp32"), ("FLOAT", "fp32"))  # fmt: skip
_MOVES = ("reformat", "shuffle", "slice", "concat", "noop", "copy", "cast", "reorg")


def inspect(trt: Any, engine: Any, context: Any) -> list[dict[str, Any]]:
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
    return layers_of(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def layers_of(said: str) -> list[dict[str, Any]]:
    """Layers of one kind, precision and format together: ``op``, ``ran``, ``format``, ``nodes``; the most first.

    Args:
        said: What the inspector says as JSON. An engine that was built without ``DETAILED`` verbosity has names alone:
            ``op`` is then "unknown".
    """
    layers = json.loads(said or "{}").get("Layers", [])
    counted = Counter(_layer(layer) for layer in layers)
    rows = [{"op": op, "ran": ran, "format": form, "nodes": n} for (op, ran, form), n in counted.items()]
    return sorted(rows, key=lambda row: (-row["nodes"], row["op"], row["ran"], row["format"]))


def _layer(layer: Any) -> tuple[str, str, str]:
    if not isinstance(layer, dict):
        return "unknown", "unknown", "unknown"
    kind = str(layer.get("LayerType", "unknown"))
    form = next((str(x.get("Format/Datatype", "")) for x in layer.get("Outputs", [])), "") or "unknown"
    if any(word in kind.lower() for word in _MOVES):
        return kind, "reformatted", form
    read = next((str(x.get("Format/Datatype", "")) for x in layer.get("Inputs", [])), "")
    # A layer computes in the type that it reads: an INT8 convolution may write floats.
    found = (name for text in (read, form) for word, name in _PRECISIONS if word in text.upper())
    return kind, next(found, "other"), form
