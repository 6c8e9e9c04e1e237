"""Converts a model to FP16: weights and operators in half precision, input and logits in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from skd_bench.errors import UserError

HALF_QDQ_OPSET = 21  # from here on, Q/DQ nodes may have FP16 scales
_FP16_MAX = 65504.0
_QDQ = ("QuantizeLinear", "DequantizeLinear")


def convert_model_to_half(model: onnx.ModelProto, path: Path | str) -> onnx.ModelProto:
    """Convert a model in memory; its metadata is lost.

    Args:
        model: The model; it may be changed. With Q/DQ nodes, its opset must be at least `HALF_QDQ_OPSET`.
        path: Its file, for messages.

    Raises:
        UserError: A weight is larger than FP16 can hold (65504) or NaN, or the file is quantised with an older opset.
    """
    import onnx_ir
    from onnxruntime.transformers.float16 import convert_float_to_float16

    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < HALF_QDQ_OPSET and any(node.op_type in _QDQ for node in model.graph.node):
        raise UserError(
            f"{path} is quantised already, with FP32 for the rest (opset {opset}); convert the FP32 file to FP16, or "
            "export int8-trt, which computes the rest in FP16"
        )
    weights = [onnx.numpy_helper.to_array(w) for w in model.graph.initializer]
    floats = [w for w in weights if w.dtype == np.float32 and w.size]
    largest = max((float(np.abs(w).max()) for w in floats), default=0.0)
    if not largest <= _FP16_MAX:
        raise UserError(f"{path} has a weight of {largest:g}, larger than FP16 can hold (65504); use FP32 instead")
    graph = onnx_ir.from_proto(convert_float_to_float16(model, keep_io_types=True))
    graph.graph.sort()  # the converter appends the casts of input and output at the end
    half: onnx.ModelProto = onnx_ir.to_proto(graph)
    del half.metadata_props[:]
    onnx.checker.check_model(half, full_check=True)
    return half
