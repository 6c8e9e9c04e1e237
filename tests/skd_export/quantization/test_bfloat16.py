"""BF16 files: bfloat16 inside, float32 outside, computed so by OpenVINO and built so by TensorRT-RTX."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from skd_bench.errors import UserError
from skd_bench.runtimes import find_runtime
from skd_bench.runtimes.openvino import why_no_bfloat16
from skd_bench.runtimes.tensorrt.builder import build_engine
from skd_bench.runtimes.tensorrt.library import FLAVOURS, find_installed_modules
from skd_export.analysis.parity import compute_parity, find_violated_bound
from skd_export.graph.onnx_export import load_onnx
from skd_export.quantization.bfloat16 import convert_model_to_bfloat16
from skd_export.quantization.quantize import convert_bf16, quantize_for_tensorrt
from skd_export.quantization.sensitivity import compute_onnx_logits

RTX = "tensorrt-rtx"
needs_rtx = pytest.mark.skipif(
    find_installed_modules(FLAVOURS[RTX]) is None, reason="TensorRT-RTX does not install on this machine"
)


@pytest.fixture
def bf16(fp32, tmp_path):
    facts = convert_bf16(fp32, tmp_path / "bf16.onnx")
    assert facts["operators"]["Conv"] == 4
    return tmp_path / "bf16.onnx"


def test_the_file_keeps_its_ends_and_classes_and_equal_files_give_equal_bytes(fp32, bf16, tmp_path):
    before, after = load_onnx(fp32), load_onnx(bf16)
    for ends in (lambda m: m.graph.input, lambda m: m.graph.output, lambda m: m.metadata_props):
        assert [v.SerializeToString() for v in ends(before)] == [v.SerializeToString() for v in ends(after)]
    kinds = {t.data_type for t in after.graph.initializer}
    assert TensorProto.FLOAT not in kinds
    assert TensorProto.BFLOAT16 in kinds
    assert bf16.stat().st_size < fp32.stat().st_size
    convert_bf16(fp32, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == bf16.read_bytes()


def test_weights_are_rounded_once_and_the_logits_stay_close(fp32, bf16, clips):
    """On onnx's own evaluator, which computes bfloat16 with bfloat16's rounding."""
    held_out = clips(4, 5)
    [logits] = ReferenceEvaluator(load_onnx(bf16)).run(None, {"clip": held_out})
    reference = compute_onnx_logits(fp32, held_out)
    assert logits.dtype == np.float32
    assert 0 < np.abs(logits - reference).max() / np.abs(reference).max() < 0.03


@pytest.mark.skipif(why_no_bfloat16() is not None, reason="no bfloat16 arithmetic")
def test_openvino_computes_in_bfloat16_within_the_bounds(fp32, bf16, clips):
    held_out = clips(200, 5)
    session = find_runtime("openvino").load(bf16, threads=1)
    parity = compute_parity(compute_onnx_logits(fp32, held_out), session.run(held_out))
    assert find_violated_bound(parity, "bf16") is None
    assert 1e-4 < parity["relative"] < 0.03
    operators = session.runtime_info()["operators"]
    assert operators["Convolution bf16"] == 4
    assert "Convolution f32" not in operators


def test_onnx_runtime_has_no_bfloat16_convolution(bf16):
    with pytest.raises(UserError, match="Could not find an implementation for Conv"):
        find_runtime("ort").load(bf16, threads=1)


@needs_rtx
def test_tensorrt_builds_it_from_ampere_on(bf16, tmp_path):
    metadata = build_engine(bf16, tmp_path / "e", runtime=RTX, sms=[86])
    assert (metadata.precision, metadata.sms) == ("bf16", [86])
    with pytest.raises(UserError, match=r"for SM75: GPUs have BF16 from SM80 on; .*--precision fp16"):
        build_engine(bf16, tmp_path / "old", runtime=RTX, sms=[75])
    assert not (tmp_path / "old").exists()


def test_constants_inside_nodes_are_rounded_and_scales_of_a_resize_are_not():
    half = helper.make_node("Constant", [], ["half"], value=numpy_helper.from_array(np.float32([0.501])))
    nodes = [
        half,
        helper.make_node("Cast", ["count"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "half"], ["y"]),
        helper.make_node("Add", ["y", "wide"], ["z"]),
        helper.make_node("Resize", ["z", "", "scales"], ["out"], mode="nearest"),
    ]
    x, out = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, None, None]) for n in ("x", "out"))
    arrays = {"scales": np.float32([1, 1, 2, 2]), "count": np.int64([3])}
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", [x], [out], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    rounded = convert_model_to_bfloat16(model, "x.onnx")
    assert {t.name: t.data_type for t in rounded.graph.initializer} == {
        "scales": TensorProto.FLOAT,
        "count": TensorProto.INT64,
    }
    [y] = ReferenceEvaluator(rounded).run(None, {"x": np.ones((1, 1, 1, 1), np.float32)})
    assert y.shape == (1, 1, 2, 2)
    np.testing.assert_array_equal(y, 3.5)  # 0.501 has no bfloat16: 0.5


def test_a_quantised_file_is_refused(fp32, batches, tmp_path):
    quantize_for_tensorrt(fp32, tmp_path / "int8.onnx", batches())
    with pytest.raises(UserError, match="is quantised already; convert the FP32 file to BF16"):
        convert_bf16(tmp_path / "int8.onnx", tmp_path / "bf16.onnx")
    assert not (tmp_path / "bf16.onnx").exists()


def test_an_operator_without_bfloat16_is_refused(tmp_path):
    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Celu", ["x"], ["y"])], "g", [tensors[0]], [tensors[1]])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "m.onnx")
    with pytest.raises(UserError, match=r"m\.onnx cannot be converted to BF16: .*; use FP16 or FP32"):
        convert_bf16(tmp_path / "m.onnx", tmp_path / "bf16.onnx")
