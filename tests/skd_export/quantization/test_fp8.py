"""FP8 files (E4M3): where their Q/DQ pairs stand, what they compute, and which GPUs they are for."""

import collections

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from skd_bench.errors import UserError
from skd_bench.runtimes import find_runtime
from skd_bench.runtimes.tensorrt.builder import build_engine
from skd_bench.runtimes.tensorrt.library import FLAVOURS, find_installed_modules
from skd_export.graph.onnx_export import load_onnx
from skd_export.quantization.calibration import CalibrationRanges
from skd_export.quantization.fp8 import FP8_MAX, quantize_graph_to_fp8
from skd_export.quantization.quantize import quantize_to_fp8
from skd_export.quantization.sensitivity import compute_onnx_logits, measure_layer_sensitivities

RTX = "tensorrt-rtx"
needs_rtx = pytest.mark.skipif(
    find_installed_modules(FLAVOURS[RTX]) is None, reason="TensorRT-RTX does not install on this machine"
)


@pytest.fixture
def fp8(fp32, batches, tmp_path):
    facts = quantize_to_fp8(fp32, tmp_path / "fp8.onnx", batches())
    assert len(facts["unsupported"]) == 1  # the depthwise convolution over time
    return tmp_path / "fp8.onnx"


def test_the_file_is_valid_onnx_of_opset_21_with_fp16_for_the_rest(fp8, fp32):
    model = onnx.load(fp8)
    onnx.checker.check_model(model, full_check=True)
    assert [o.version for o in model.opset_import if not o.domain] == [21]
    kinds = collections.Counter(t.data_type for t in model.graph.initializer)
    assert kinds[TensorProto.FLOAT] == 0
    assert kinds[TensorProto.FLOAT8E4M3FN] >= 4  # weights, and zero points
    assert fp8.stat().st_size < fp32.stat().st_size
    assert {p.key for p in model.metadata_props} == {p.key for p in load_onnx(fp32).metadata_props}


def test_pairs_stand_before_dense_layers_and_nowhere_else(fp8):
    graph = load_onnx(fp8).graph
    readers = collections.defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    layers = [n for n in graph.node if n.op_type in ("Conv", "Gemm")]
    grouped = [n for n in layers if any(a.name == "group" and a.i > 1 for a in n.attribute)]
    dequantised = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    assert len(layers) == 5
    assert len(grouped) == 1
    for node in layers:
        assert {name in dequantised for name in node.input[:2]} == {node not in grouped}
    assert {r.op_type for name in dequantised for r in readers[name]} == {"Conv", "Gemm"}


@pytest.mark.parametrize("run", ["reference", "ort"])
def test_the_logits_are_those_of_rounded_numbers(fp8, fp32, clips, run):
    """ONNX Runtime rounded biases with FP16 products of scales: the logits were off by their standard deviation."""
    held_out = clips(4, 11)
    reference = compute_onnx_logits(fp32, held_out)
    if run == "reference":
        [logits] = ReferenceEvaluator(load_onnx(fp8)).run(None, {"clip": held_out})
    else:
        logits = find_runtime("ort").load(fp8, threads=1).run(held_out)
    error = np.abs(logits - reference).mean() / reference.std()
    assert 0 < error < 0.1
    np.testing.assert_allclose(logits, compute_onnx_logits(fp8, held_out), atol=0.02 * np.abs(reference).max())


@pytest.mark.parametrize(
    ("operator", "transposed"), [("Gemm", True), ("Gemm", False), ("MatMul", False), ("Conv", False)]
)
def test_a_layer_computes_the_product_of_rounded_numbers(operator, transposed):
    """The reference evaluator against the definition: round(x / s) * s with E4M3, a scale for each output channel."""
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((6, 3)) * [[1], [10], [0.1], [1], [1], [0]]).astype(np.float32)  # (out, in)
    x = rng.standard_normal((5, 3)).astype(np.float32)
    stored = weight if transposed else weight.T
    tail = (1, 1) if operator == "Conv" else ()
    if operator == "Conv":
        stored = weight.reshape(6, 3, 1, 1)
    attributes = {"transB": 1} if transposed else {}
    node = helper.make_node(operator, ["x", "w"], ["y"], "layer", **attributes)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", c, *tail]) for n, c in (("x", 3), ("y", 6))]
    graph = helper.make_graph(
        [node], "g", ends[:1], ends[1:], [numpy_helper.from_array(np.ascontiguousarray(stored), "w")]
    )
    assert quantize_graph_to_fp8(graph, ["layer"], lambda name: float(np.abs(x).max())) == []
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    [y] = ReferenceEvaluator(model).run(None, {"x": x.reshape(5, 3, *tail)})

    def round_to_fp8(values, largest):
        scale = np.float32(np.float16(np.maximum(largest / FP8_MAX, 2.0**-14)))
        return np.clip(values / scale, -FP8_MAX, FP8_MAX).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale

    expected = round_to_fp8(x, np.abs(x).max()) @ round_to_fp8(weight, np.abs(weight).max(1, keepdims=True)).T
    np.testing.assert_allclose(y.reshape(5, 6), expected, rtol=1e-5, atol=1e-6)


def test_layers_without_a_range_or_a_constant_weight_stay(fp32):
    model = load_onnx(fp32)
    names = [n.name for n in model.graph.node if n.op_type in ("Conv", "Gemm")]
    before = [n.SerializeToString() for n in model.graph.node]
    assert quantize_graph_to_fp8(model.graph, names, lambda name: None) == names
    assert [n.SerializeToString() for n in model.graph.node] == before


def test_one_layer_alone_and_all_but_one(fp32, batches, tmp_path):
    ranges = CalibrationRanges(fp32, batches())
    head = next(name for name, op in ranges.layers if op == "Gemm")

    def count_pairs(**choice):
        quantize_to_fp8(ranges, tmp_path / "x.onnx", **choice)
        return sum(n.op_type == "QuantizeLinear" for n in load_onnx(tmp_path / "x.onnx").graph.node)

    assert count_pairs(only=[head]) == 1
    assert count_pairs() - count_pairs(exclude=[head]) == 1
    order = measure_layer_sensitivities(fp32, ranges, quantize_to_fp8)
    assert sorted(row["layer"] for row in order) == sorted(name for name, _ in ranges.layers)
    depthwise = order[-1]
    assert depthwise["error"] < 0.01  # it is not quantised: what is left is FP16
    assert order[0]["error"] > 2 * depthwise["error"]


@needs_rtx
@pytest.mark.parametrize("sm", [89, 120])
def test_tensorrt_builds_it_where_gpus_have_fp8(fp8, tmp_path, sm):
    metadata = build_engine(fp8, tmp_path / "e", runtime=RTX, sms=[sm])
    assert (metadata.precision, metadata.sms) == ("fp8", [sm])


@needs_rtx
def test_older_gpus_are_refused_before_the_build(fp8, tmp_path):
    with pytest.raises(UserError, match=r"for SM86: GPUs have FP8 from SM89 on; .*--precision fp16"):
        build_engine(fp8, tmp_path / "e", runtime=RTX, sms=[86, 89])
    assert not (tmp_path / "e").exists()
