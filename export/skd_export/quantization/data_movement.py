"""Keeps Q/DQ pairs away from nodes that only move data, in files for CPUs.

ONNX Runtime's quantiser puts a pair behind every reshape and transpose, with the scale and zero point of the pair that
is before it. Such a pair changes no value: it rounds numbers that are rounded already. ONNX Runtime removes it when it
loads the file. OpenVINO does not where the zero point is not 0: each pair became a kernel of its own, and transposes
with a pair between them did not cancel. A ResNet with temporal convolutions then took longer than with NNCF's file
of it (docs/precision.md).
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from onnx import GraphProto, NodeProto, numpy_helper

_SAME_SIZE = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
_DATA_MOVEMENT = (*_SAME_SIZE, "Slice", "Split", "Identity")
_PairValues = tuple[tuple[str, bytes], ...]


def simplify_pairs(graph: GraphProto) -> None:
    """Quantise before data is moved, and once: the values of all tensors that remain are the same.

    Args:
        graph: A graph with Q/DQ pairs in topological order; changed in place.
    """
    pairs = _Pairs(graph)
    nodes = _quantise_before_moving([*graph.node], {value.name for value in graph.output})
    nodes = _drop_repeated_pairs(nodes, pairs)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in _drop_unread(nodes, graph)]
    del graph.node[:]
    graph.node.extend(copies)


class _Pairs:
    """Scale and zero point of Q and DQ nodes that have one for the whole tensor."""

    def __init__(self, graph: GraphProto) -> None:
        self._constants: dict[str, npt.NDArray[Any]] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer
        }

    def read(self, node: NodeProto) -> _PairValues | None:
        values = [self._constants.get(name) for name in node.input[1:]]
        found = [value for value in values if value is not None and value.size == 1]
        return tuple((str(v.dtype), v.tobytes()) for v in found) if len(found) == len(values) == 2 else None


def _quantise_before_moving(nodes: list[NodeProto], ends: set[str]) -> list[NodeProto]:
    """Move each pair before transposes and reshapes that it reads from: bytes are moved instead of floats."""
    moved = True
    while moved:
        moved = False
        makers = {name: node for node in nodes for name in node.output}
        readers: dict[str, list[NodeProto]] = {}
        for node in nodes:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        for quantise in nodes:
            move = makers.get(quantise.input[0]) if quantise.op_type == "QuantizeLinear" else None
            followers = readers.get(quantise.output[0], []) if move is not None else []
            if move is None or move.op_type not in _SAME_SIZE or [n.op_type for n in followers] != ["DequantizeLinear"]:
                continue
            [dequantise], behind = followers, move.output[0]
            if behind in ends or dequantise.output[0] in ends or len(readers[behind]) > 1:
                continue
            for reader in readers.get(dequantise.output[0], []):
                _rename_input(reader, dequantise.output[0], behind)
            quantise.input[0], move.input[0] = move.input[0], dequantise.output[0]
            at = nodes.index(move)
            others = [node for node in nodes if node not in (quantise, move, dequantise)]
            nodes = [*others[:at], quantise, dequantise, move, *others[at:]]
            moved = True
            break
    return nodes


def _drop_repeated_pairs(nodes: list[NodeProto], pairs: _Pairs) -> list[NodeProto]:
    """Drop every pair that reads, through nodes that move data, from a pair with the same scale and zero point."""
    rounded: dict[str, _PairValues] = {}  # tensors whose values are those of a pair
    quantised: dict[str, tuple[str, _PairValues | None]] = {}
    replaced: dict[str, str] = {}
    remaining = []
    for node in nodes:
        for name in set(node.input) & replaced.keys():
            _rename_input(node, name, replaced[name])
        if node.op_type == "QuantizeLinear":
            quantised[node.output[0]] = node.input[0], pairs.read(node)
        elif node.op_type == "DequantizeLinear" and node.input[0] in quantised:
            source, values = quantised[node.input[0]]
            if values is not None and values == pairs.read(node):
                if rounded.get(source) == values:
                    replaced[node.output[0]] = source
                    continue
                rounded[node.output[0]] = values
        elif node.op_type in _DATA_MOVEMENT and node.input[0] in rounded:
            rounded |= dict.fromkeys(node.output, rounded[node.input[0]])
        remaining.append(node)
    return remaining


def _drop_unread(nodes: list[NodeProto], graph: GraphProto) -> list[NodeProto]:
    """Drop Q nodes whose output nobody reads any more."""
    read = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    return [node for node in nodes if node.op_type != "QuantizeLinear" or node.output[0] in read]


def _rename_input(node: NodeProto, before: str, after: str) -> None:
    for i, name in enumerate(node.input):
        if name == before:
            node.input[i] = after
