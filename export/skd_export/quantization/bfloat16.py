"""Converts a model to bfloat16: weights and operators in bfloat16, input and logits in float32.

One file serves two runtimes. TensorRT's networks are strongly typed, so that it computes in the types of the file.
OpenVINO computes in them too, on a CPU that has bfloat16 arithmetic. ONNX Runtime has no bfloat16 convolution on a CPU.
"""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper, version_converter

from skd_bench.errors import UserError

BFLOAT16_OPSET = 22  # the first one with bfloat16 convolutions
_QDQ = ("QuantizeLinear", "DequantizeLinear")
_FLOAT_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}  # inputs that ONNX defines as float32


def convert_model_to_bfloat16(model: ModelProto, path: Path | str) -> ModelProto:
    """Convert a model in memory; its metadata is lost.

    Args:
        model: An FP32 model without subgraphs; it is not changed.
        path: Its file, for messages.

    Raises:
        UserError: The file is quantised, or contains an operator that has no bfloat16 form.
    """
    if any(node.op_type in _QDQ for node in model.graph.node):
        raise UserError(f"{path} is quantised already; convert the FP32 file to BF16")
    try:
        converted = version_converter.convert_version(model, BFLOAT16_OPSET)
        graph = converted.graph
        wide = _find_wide_constants(graph)
        for tensor in graph.initializer:
            if tensor.name not in wide:
                _round_tensor(tensor)
        for node in graph.node:
            _convert_attributes(node)
        _cast_ends(graph)
        del graph.value_info[:]
        del converted.metadata_props[:]
        _check_types(graph)
        onnx.checker.check_model(converted, full_check=True)
    except (RuntimeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} cannot be converted to BF16: {reason}; use FP16 or FP32") from error
    return converted


def _check_types(graph: GraphProto) -> None:
    """Refuse operators that ONNX does not define for bfloat16, which its checker accepts.

    Raises:
        RuntimeError: There is such an operator.
    """
    for node in graph.node:
        schema = onnx.defs.get_schema(node.op_type, BFLOAT16_OPSET, node.domain)
        kinds = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
        allowed = kinds.get(schema.outputs[0].type_str, ())
        if "tensor(float)" in allowed and "tensor(bfloat16)" not in allowed:
            raise RuntimeError(f"{node.op_type} ({node.name}) has no bfloat16 form")


def _find_wide_constants(graph: GraphProto) -> set[str]:
    return {
        node.input[i]
        for node in graph.node
        for i in _FLOAT_INPUTS.get(node.op_type, ())
        if i < len(node.input) and node.input[i]
    }


def _round_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        rounded = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(rounded), tensor.name))


def _convert_attributes(node: onnx.NodeProto) -> None:
    """Round constants inside a node, and let casts to float32 end in bfloat16."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR:
            _round_tensor(attribute.t)
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.CopyFrom(helper.make_attribute("to", TensorProto.BFLOAT16))


def _cast_ends(graph: GraphProto) -> None:
    """Cast the float32 input behind its name and the logits before theirs."""
    outer = {v.name: v for v in (*graph.input, *graph.output) if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name in outer:
                    names[i] = f"{name}_bf16"
    before = [_make_cast(v.name, f"{v.name}_bf16", TensorProto.BFLOAT16) for v in graph.input if v.name in outer]
    behind = [_make_cast(f"{v.name}_bf16", v.name, TensorProto.FLOAT) for v in graph.output if v.name in outer]
    nodes = [*before, *(onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node), *behind]
    del graph.node[:]
    graph.node.extend(nodes)


def _make_cast(source: str, target: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], f"{target}_cast", to=to)
