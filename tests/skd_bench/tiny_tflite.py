"""A .tflite file written by hand: LiteRT's wheel brings the schema of the format, and no converter is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def linear_tflite(path: Path, weights: np.ndarray, bias: np.ndarray, shape: tuple[int, ...], batch: int = -1) -> Path:
    """`logits = flatten(clip) @ weights + bias`; a batch of -1 is open."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as s

    rows, classes = weights.shape

    def tensor(name: str, dims: list[int], buffer: int = 0, kind: int = s.TensorType.FLOAT32) -> s.TensorT:
        made = s.TensorT()
        made.name, made.buffer, made.type = name.encode(), buffer, kind
        made.shape, made.shapeSignature = [max(n, 1) for n in dims], dims
        return made

    def operator(code: int, inputs: list[int], outputs: list[int], kind: int, options: object) -> s.OperatorT:
        made = s.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = code, inputs, outputs
        made.builtinOptionsType, made.builtinOptions = kind, options
        return made

    def buffer(array: np.ndarray | None = None) -> s.BufferT:
        made = s.BufferT()
        made.data = None if array is None else np.frombuffer(array.tobytes(), np.uint8)
        return made

    def code(builtin: int) -> s.OperatorCodeT:
        made = s.OperatorCodeT()
        made.builtinCode = made.deprecatedBuiltinCode = builtin
        made.version = 1
        return made

    graph, model = s.SubGraphT(), s.ModelT()
    graph.tensors = [
        tensor("clip", [batch, *shape]),
        tensor("shape", [2], 1, s.TensorType.INT32),
        tensor("flat", [batch, rows]),
        tensor("w", [classes, rows], 2),
        tensor("b", [classes], 3),
        tensor("logits", [batch, classes]),
    ]
    graph.inputs, graph.outputs = [0], [5]
    graph.operators = [
        operator(0, [0, 1], [2], s.BuiltinOptions.ReshapeOptions, s.ReshapeOptionsT()),
        operator(1, [2, 3, 4], [5], s.BuiltinOptions.FullyConnectedOptions, s.FullyConnectedOptionsT()),
    ]
    model.version, model.subgraphs = 3, [graph]
    model.operatorCodes = [code(s.BuiltinOperator.RESHAPE), code(s.BuiltinOperator.FULLY_CONNECTED)]
    model.buffers = [buffer(), buffer(np.array([batch, rows], np.int32)), buffer(weights.T), buffer(bias)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path
