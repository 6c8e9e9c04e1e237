"""FP16 of a whole model, and of what is not quantised."""

import onnx
import pytest
from onnx import numpy_helper, version_converter

from skd_bench.errors import UserError
from skd_export.graph.onnx_export import load_onnx
from skd_export.quantization.half import HALF_QDQ_OPSET, convert_model_to_half
from skd_export.quantization.quantize import convert_fp16, quantize_for_ort, quantize_for_tensorrt


def test_what_is_not_quantised_becomes_half_and_the_ends_stay_float(fp32, batches, tmp_path):
    facts = quantize_for_tensorrt(fp32, tmp_path / "trt.onnx", batches())
    assert facts["rest"] == "fp16"
    model = load_onnx(tmp_path / "trt.onnx")
    [opset] = [entry.version for entry in model.opset_import if entry.domain == ""]
    assert opset == HALF_QDQ_OPSET
    ends = [v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)]
    assert ends == [onnx.TensorProto.FLOAT] * 2
    kinds = {numpy_helper.to_array(t).dtype.name for t in model.graph.initializer}
    assert kinds <= {"int8", "float16", "int64"}


def test_a_quantised_file_of_an_older_opset_is_refused_in_one_sentence(fp32, batches, tmp_path):
    """It was a traceback of the shape inference."""
    quantize_for_ort(fp32, tmp_path / "int8.onnx", batches())
    with pytest.raises(UserError, match=r"int8\.onnx is quantised already, with FP32 for the rest \(opset 18\)"):
        convert_fp16(tmp_path / "int8.onnx", tmp_path / "fp16.onnx")
    assert not (tmp_path / "fp16.onnx").exists()


def test_a_quantised_model_of_a_newer_opset_is_converted(fp32, batches, tmp_path):
    quantize_for_ort(fp32, tmp_path / "int8.onnx", batches())
    newer = version_converter.convert_version(load_onnx(tmp_path / "int8.onnx"), HALF_QDQ_OPSET)
    half = convert_model_to_half(newer, "int8.onnx")
    kinds = {numpy_helper.to_array(t).dtype.name for t in half.graph.initializer}
    assert "float32" not in kinds
