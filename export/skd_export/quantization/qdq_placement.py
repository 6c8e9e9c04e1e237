"""Where a file for TensorRT is quantised: NVIDIA's rules for Q/DQ nodes, applied to a file that quantises every input.

An engine computes a convolution in INT8 if its input and its weight are quantised. It fuses what follows (bias,
residual sum, ReLU) into the same kernel, if nothing between them is quantised and if the sum's other input, the skip
branch, is quantised too. So Q/DQ pairs stand before convolutions and matrix products and on skip branches, and nowhere
else: a pair between a convolution and its ReLU would make the engine quantise twice, and one behind the last layer
rounds the logits themselves.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

ScaleFunction = Callable[[str], float | None]


def place_for_tensorrt(graph: onnx.GraphProto, layers: tuple[str, ...], scale_of: ScaleFunction) -> None:
    """Move the Q/DQ pairs of a graph to where TensorRT needs them.

    Args:
        graph: A graph in topological order whose layers have quantised inputs and weights; changed in place.
        layers: The operators that are quantised.
        scale_of: The symmetric INT8 scale of a float tensor; None where its range is unknown.
    """
    quantised = {n.output[0]: n for n in graph.node if n.op_type == "QuantizeLinear"}
    sources = {
        n.output[0]: quantised[n.input[0]].input[0]
        for n in graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] in quantised
    }  # of every dequantised activation: the float tensor that it was made from
    for node in graph.node:
        if node.op_type not in layers:
            for i, name in enumerate(node.input):
                if name in sources:
                    node.input[i] = sources[name]
    int8_outputs = {n.output[0] for n in graph.node if n.op_type in layers and n.input[0] in sources}
    _quantise_skip_branches(graph, int8_outputs, {source: name for name, source in sources.items()}, scale_of)


def _quantise_skip_branches(
    graph: onnx.GraphProto, int8_outputs: set[str], dequantised: dict[str, str], scale_of: ScaleFunction
) -> None:
    depths = _measure_depths(graph)
    nodes: list[NodeProto] = []
    for node in graph.node:
        skip = _find_skip_input(node, depths, int8_outputs) if node.op_type == "Add" else None
        if skip is not None:
            name = node.input[skip]
            if name not in dequantised and (scale := scale_of(name)) is not None:
                nodes += _make_pair(graph, name, scale)
                dequantised = dequantised | {name: f"{name}_skip_dq"}
            node.input[skip] = dequantised.get(name, name)
        nodes.append(node)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _find_skip_input(node: NodeProto, depths: dict[str, int], int8_outputs: set[str]) -> int | None:
    """Which input of a sum is its skip branch; None where no INT8 layer writes into the sum, or a constant is added.

    The layer at the end of the longer branch fuses with the sum; the other branch is the skip branch.
    """
    if not all(name in depths for name in node.input):
        return None
    from_layer = [name in int8_outputs for name in node.input]
    if not any(from_layer):
        return None
    if all(from_layer):
        return 0 if depths[node.input[0]] < depths[node.input[1]] else 1
    return from_layer.index(False)


def _measure_depths(graph: onnx.GraphProto) -> dict[str, int]:
    """The number of nodes on the longest way from the input to each tensor; constants have none."""
    depths = {value.name: 0 for value in graph.input}
    for node in graph.node:
        before = [depths[name] for name in node.input if name in depths]
        if before:
            depths |= {name: max(before) + 1 for name in node.output}
    return depths


def _make_pair(graph: onnx.GraphProto, name: str, scale: float) -> list[NodeProto]:
    constants = (np.float32(scale), f"{name}_skip_scale"), (np.int8(0), f"{name}_skip_zero")
    graph.initializer.extend(numpy_helper.from_array(np.array(value), key) for value, key in constants)
    keys = [key for _, key in constants]
    return [
        helper.make_node("QuantizeLinear", [name, *keys], [f"{name}_skip_q"], f"{name}_skip_q"),
        helper.make_node("DequantizeLinear", [f"{name}_skip_q", *keys], [f"{name}_skip_dq"], f"{name}_skip_dq"),
    ]
