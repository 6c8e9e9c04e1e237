"""Where a file for TensorRT computes in FP8 (E4M3): inputs and weights of convolutions and matrix products.

FP8 needs a GPU from SM 89 on (Ada, Hopper, Blackwell). An E4M3 number has 3 bits of mantissa and reaches 448; a scale
for each tensor, or each output channel of a weight, maps the largest absolute value to 448. Grouped convolutions
(depthwise ones, for example) stay in FP16: TensorRT has no FP8 kernels for them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import ml_dtypes
import numpy as np
import numpy.typing as npt
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

Floats = npt.NDArray[np.float32]
FP8_MAX = 448.0  # of E4M3; larger values saturate
# The smallest normal FP16 number, since scales become FP16. E4M3 has exponents of its own, so that a larger scale than
# necessary costs little.
_MIN_SCALE = 2.0**-14


def quantize_graph_to_fp8(
    graph: GraphProto, layers: Collection[str], largest_value: Callable[[str], float | None]
) -> list[str]:
    """Put Q/DQ pairs before the inputs of layers, and store their weights in FP8.

    Args:
        graph: An FP32 graph in topological order; changed in place.
        layers: Names of the nodes to quantise.
        largest_value: The largest absolute value of a float tensor; None where its range is unknown, or it is always 0.

    Returns:
        Names of the nodes among ``layers`` that stay as they were: grouped convolutions, and products without a
        constant weight or a known range.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    constants: dict[str, TensorProto] = {}
    dequantised: dict[str, str] = {}
    skipped = []
    for node in graph.node:
        if node.name in layers:
            largest = largest_value(node.input[0])
            if _count_groups(node) > 1 or node.input[1] not in weights or largest is None:
                skipped.append(node.name)
            else:
                if node.input[0] not in dequantised:
                    dequantised[node.input[0]] = f"{node.input[0]}_fp8_dq"
                    nodes += _make_pair(node.input[0], largest, constants)
                weight = numpy_helper.to_array(weights[node.input[1]])
                nodes.append(_store_weight(node, weight, constants))
                node.input[0], node.input[1] = dequantised[node.input[0]], nodes[-1].output[0]
        nodes.append(node)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    used = {name for node in copies for name in node.input}
    remaining = [TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend([*remaining, *constants.values()])
    return skipped


def _count_groups(node: NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "group"), 1)


def _make_scale(largest: npt.ArrayLike) -> Floats:
    """Scales that map the largest absolute values to 448, exact in FP16."""
    scale = np.maximum(np.asarray(largest, np.float64) / FP8_MAX, _MIN_SCALE)
    return scale.astype(np.float16).astype(np.float32)


def _make_pair(name: str, largest: float, constants: dict[str, TensorProto]) -> list[NodeProto]:
    scale, zero = f"{name}_fp8_scale", f"{name}_fp8_zero"
    constants[scale] = numpy_helper.from_array(_make_scale(largest), scale)
    constants[zero] = numpy_helper.from_array(np.zeros((), ml_dtypes.float8_e4m3fn), zero)
    return [
        helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}_fp8_q"], f"{name}_fp8_q"),
        helper.make_node("DequantizeLinear", [f"{name}_fp8_q", scale, zero], [f"{name}_fp8_dq"], f"{name}_fp8_dq"),
    ]


def _store_weight(node: NodeProto, weight: Floats, constants: dict[str, TensorProto]) -> NodeProto:
    """Store a layer's weight in FP8, with a scale for each output channel; returns the node that dequantises it."""
    axis = _find_output_axis(node, weight)
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = _make_scale(np.abs(weight).max(axis=others))
    spread = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    stored = np.clip(weight / spread, -FP8_MAX, FP8_MAX).astype(ml_dtypes.float8_e4m3fn)
    # Names of the layer, not of the weight: two layers may share one weight and read it in different ways.
    names = [f"{node.name}_fp8_weight", f"{node.name}_fp8_weight_scale", f"{node.name}_fp8_weight_zero"]
    arrays = stored, scale, np.zeros(scale.shape, ml_dtypes.float8_e4m3fn)
    constants |= {name: numpy_helper.from_array(array, name) for name, array in zip(names, arrays, strict=True)}
    name = f"{node.name}_fp8_weight_dq"
    return helper.make_node("DequantizeLinear", names, [name], name, axis=axis)


def _find_output_axis(node: NodeProto, weight: Floats) -> int:
    if node.op_type == "Conv":
        return 0
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if transposed else weight.ndim - 1
