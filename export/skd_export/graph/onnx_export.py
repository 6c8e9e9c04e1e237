"""Exports a trained network to one ONNX file.

The file has a dynamic batch and folded batch norms. It is checked, and it contains no local paths.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from skd_bench.errors import UserError
from skd_bench.files import write_atomic
from skd_export.graph.graph_template import OPSET, build_onnx_graph
from skd_export.graph.source_map import find_node_sources, find_operator_source, find_source_line

CLASSES_KEY = "skd_edge.classes"


def export_onnx(
    network: nn.Module,
    path: Path | str,
    *,
    clip_shape: tuple[int, int, int],
    classes: list[str],
    graph_cache: Path | None = None,
) -> dict[str, str]:
    """Write a network as one self-contained ONNX file.

    The file's input is ``clip``, float32 ``(B, 3, T, H, W)``, its output is ``logits``, float32 ``(B, C)``; the batch
    is dynamic. The metadata holds the class names (key ``skd_edge.classes``, JSON) and nothing else: the paths and
    stack traces that the exporter writes are removed. The module is not changed. Equal weights give equal bytes.

    Args:
        network: A plain module in eval mode, ``forward(clip) -> logits``, on any device.
        path: Where the file goes; written atomically.
        clip_shape: ``(T, H, W)``: frames and pixels the network takes.
        classes: Class names in the order of the logits.
        graph_cache: Folder where traced graphs are shared between runs; None: each process traces once. Use it only for
            networks whose code is in the folder of their classes (`skd_export.graph.graph_cache`).

    Returns:
        The source line of each node, ``file:line: code`` by the node's name, as far as the exporter reports it. The
        file itself does not contain these lines.

    Raises:
        UserError: The network is in train mode, cannot be traced, or its logits do not fit the classes.
    """
    if training := [name or "the network itself" for name, m in network.named_modules() if m.training]:
        raise UserError(
            f"the network is in train mode ({training[0]}): its file would give other logits than the network that was "
            "validated; call network.eval() before exporting"
        )
    with torch.no_grad():
        try:
            model = build_onnx_graph(network, clip_shape, graph_cache)
        except torch.onnx.errors.OnnxExporterError as error:
            raise UserError(_format_tracing_error(error, network, clip_shape)) from error
    from onnxscript import optimizer  # imported late: it takes a second, and resumed runs rarely need it

    model = optimizer.optimize(model)
    sources = find_node_sources(model)
    strip_metadata(model)
    onnx.helper.set_model_props(model, {CLASSES_KEY: json.dumps(classes, ensure_ascii=False)})
    _check_exported_model(model, clip_shape, classes)
    write_atomic(path, model.SerializeToString(deterministic=True))
    return sources


def load_onnx(path: Path | str) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        UserError: The file cannot be read or is not an ONNX file.
    """
    try:
        model = onnx.load(str(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # protobuf's DecodeError, without importing protobuf's internals
        raise UserError(f"{path} is not an ONNX file: {error}") from error
    if not model.graph.node:
        raise UserError(f"{path} is not an ONNX file: it contains no graph")
    return model


def opset_version(model: onnx.ModelProto) -> int:
    """The opset version that a file uses; the exporter does not always write the requested one."""
    return max(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def strip_metadata(model: onnx.ModelProto) -> None:
    """Remove metadata and doc strings at all levels: they can contain absolute paths and stack traces."""
    for holder in _iter_annotated_protos(model):
        holder.ClearField("metadata_props")
        if "doc_string" in holder.DESCRIPTOR.fields_by_name:
            holder.ClearField("doc_string")


def _iter_annotated_protos(model: onnx.ModelProto) -> Iterable[Any]:
    yield model
    yield from model.functions
    graph = model.graph
    yield graph
    yield from (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for node in (*graph.node, *(n for f in model.functions for n in f.node)):
        yield node
        yield from (a.t for a in node.attribute if a.type == onnx.AttributeProto.TENSOR)


def _check_exported_model(model: onnx.ModelProto, clip_shape: tuple[int, int, int], classes: list[str]) -> None:
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    if opset_version(model) != OPSET:
        raise UserError(
            f"the exporter wrote opset {opset_version(model)} instead of {OPSET}: torch {torch.__version__} behaves "
            "differently from the supported versions; install torch>=2.9,<2.14"
        )
    clip, logits = (_tensor_shape(x) for x in (*model.graph.input, *model.graph.output))
    if clip[1:] != [3, *clip_shape]:
        expected = ", ".join(map(str, ("B", 3, *clip_shape)))
        raise UserError(
            f"the exported input has the shape {clip} instead of ({expected}); export with the clip's shape"
        )
    if logits[1:] != [len(classes)]:
        raise UserError(
            f"the network gives {logits[1:]} logits for each clip, but there are {len(classes)} classes; "
            "export it with the class list that it was trained on"
        )
    if clip[0] != logits[0] or not isinstance(clip[0], str):
        raise UserError(
            f"the batch is {clip[0]} at the network's input and {logits[0]} at its output: the network does not "
            "process clips independently; use reshape(-1, ...) instead of a fixed batch size in its forward"
        )


def _tensor_shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def _format_tracing_error(error: Exception, network: nn.Module, clip_shape: tuple[int, int, int]) -> str:
    """One line with the root cause of the exporter's error, and the source line where it occurs if that is known."""
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    cause = chain[-1]
    reason = (str(cause).strip().splitlines() or ["no reason given"])[0]
    place = next((p for e in reversed(chain) if (p := find_source_line(str(e)))), None)
    place = place or find_operator_source(network, clip_shape, reason)
    where = f" (the network's source: {place})" if place else ""
    return (
        f"the network cannot be written as ONNX: {type(cause).__name__}: {reason}{where}; "
        "its forward must be traceable by torch.export with a dynamic batch"
    )
