"""A linear network as an ONNX file; test files load it with `runpy`, because they cannot import each other."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

SHAPE, CLASSES = (3, 2, 4, 5), 7


WEIGHTS = np.random.default_rng(0).normal(size=(int(np.prod(SHAPE)), CLASSES)).astype(np.float32)


BIAS = np.linspace(-1, 1, CLASSES, dtype=np.float32)


def linear_onnx(path: Path, *, outputs: int = 1, dtype: int = TensorProto.FLOAT, batch: int | str = "batch") -> Path:
    """`logits = flatten(clip) @ WEIGHTS + BIAS` as an ONNX file."""
    nodes = [
        helper.make_node("Flatten", ["clip"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    names = ["logits", "flat"][:outputs]
    sizes = {"logits": CLASSES, "flat": len(WEIGHTS)}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("clip", dtype, [batch, *SHAPE])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, sizes[n]]) for n in names],
        [numpy_helper.from_array(WEIGHTS, "w"), numpy_helper.from_array(BIAS, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path
