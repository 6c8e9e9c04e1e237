"""Q/DQ pairs of the file for TensorRT: before layers and on skip branches, and nowhere else."""

import collections
import re

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from skd_bench.runtimes.tensorrt.builder import build_engine
from skd_bench.runtimes.tensorrt.library import FLAVOURS, find_installed_modules
from skd_export.graph.onnx_export import load_onnx
from skd_export.quantization import calibration
from skd_export.quantization.calibration import CalibrationRanges
from skd_export.quantization.qdq_placement import place_for_tensorrt
from skd_export.quantization.quantize import quantize_for_ort, quantize_for_tensorrt
from skd_export.quantization.sensitivity import compute_onnx_logits

RTX = "tensorrt-rtx"
LAYERS = ("Conv", "Gemm", "MatMul")


@pytest.fixture
def trt(fp32, batches, tmp_path):
    quantize_for_tensorrt(fp32, tmp_path / "trt.onnx", batches())
    return tmp_path / "trt.onnx"


def neighbours(path):
    """(operator before the pair, operator behind it) of each Q/DQ pair of an activation."""
    graph = load_onnx(path).graph
    makers = {name: node for node in graph.node for name in node.output}
    readers = collections.defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    found = collections.Counter()
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            [dequantise] = readers[node.output[0]]
            before = makers[node.input[0]].op_type if node.input[0] in makers else "input"
            for reader in readers[dequantise.output[0]]:
                found[before, reader.op_type] += 1
    return found


def test_pairs_stand_before_layers_and_on_the_skip_branch_only(trt):
    found = neighbours(trt)
    assert sum(n for (_, behind), n in found.items() if behind in LAYERS) == 5  # four convolutions and the head
    assert sum(n for (_, behind), n in found.items() if behind == "Add") == 1  # the residual sum
    assert {behind for _, behind in found} <= {*LAYERS, "Add"}
    assert not any(before in LAYERS for before, _ in found)  # a kernel ends with what is fused into it
    graph = load_onnx(trt).graph
    head = next(n for n in graph.node if n.op_type == "Gemm")
    assert not any(n.op_type == "QuantizeLinear" and n.input[0] == head.output[0] for n in graph.node)


def test_logits_are_not_rounded_to_a_few_values(trt, fp32, clips):
    held_out = clips(64, 11)
    reference, logits = compute_onnx_logits(fp32, held_out), compute_onnx_logits(trt, held_out)
    assert logits.shape == (64, 5)
    assert len(np.unique(logits)) >= 299  # of 320
    error = np.abs(logits - reference).mean() / reference.std()
    assert 0 < error < 0.05


def test_an_int8_file_does_not_depend_on_the_files_made_before(fp32, batches, tmp_path):
    """ONNX Runtime's quantiser changes the ranges that it is given."""
    for name, first in (("alone", []), ("after", [quantize_for_ort]), ("twice", [quantize_for_tensorrt])):
        ranges = CalibrationRanges(fp32, batches())
        for quantize in first:
            quantize(ranges, tmp_path / "first.onnx")
        quantize_for_tensorrt(ranges, tmp_path / f"{name}.onnx")
    written = [(tmp_path / f"{name}.onnx").read_bytes() for name in ("alone", "after", "twice")]
    assert written[0] == written[1] == written[2]


def test_quantising_does_not_change_the_ranges(fp32, batches, tmp_path):
    ranges = CalibrationRanges(fp32, batches())
    tensors = [*ranges.tensor_ranges()]
    before = ranges.tensor_ranges()
    quantize_for_ort(ranges, tmp_path / "int8.onnx")
    quantize_for_tensorrt(ranges, tmp_path / "trt.onnx")
    assert tensors
    assert ranges.tensor_ranges() == before


def make_graph(nodes):
    tensor = helper.make_tensor_value_info
    weights = [numpy_helper.from_array(np.ones((2, 2, 1, 1), np.int8), "w")]
    weights += [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(0), "z")]
    return helper.make_graph(
        nodes,
        "g",
        [tensor("x", TensorProto.FLOAT, [1, 2, 4, 4])],
        [tensor("y", TensorProto.FLOAT, [1, 2, 4, 4])],
        weights,
    )


def layer(name, source, target):
    """A quantised convolution as nodes: Q, DQ, the weight's DQ and the convolution."""
    return [
        helper.make_node("QuantizeLinear", [source, "s", "z"], [f"{name}_q"], f"{name}_q"),
        helper.make_node("DequantizeLinear", [f"{name}_q", "s", "z"], [f"{name}_dq"], f"{name}_dq"),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], [f"{name}_w"], f"{name}_w"),
        helper.make_node("Conv", [f"{name}_dq", f"{name}_w"], [target], name),
    ]


def test_of_two_layers_that_are_added_the_shorter_branch_is_the_skip():
    nodes = [*layer("a", "x", "a_out"), helper.make_node("Relu", ["a_out"], ["r"])]
    nodes += [*layer("b", "r", "long"), *layer("c", "x", "short"), helper.make_node("Add", ["long", "short"], ["y"])]
    graph = make_graph(nodes)
    wanted = []
    place_for_tensorrt(graph, LAYERS, lambda name: wanted.append(name) or 0.5)
    assert wanted == ["short"]
    [add] = [n for n in graph.node if n.op_type == "Add"]
    assert list(add.input) == ["long", "short_skip_dq"]
    order = [name for n in graph.node for name in n.output]
    assert order.index("short_skip_dq") < order.index("y")


def test_data_movement_and_sums_without_layers_stay_in_floats():
    nodes = [*layer("a", "x", "a_out"), helper.make_node("Reshape", ["a_dq", "shape"], ["moved"])]
    nodes += [helper.make_node("Relu", ["moved"], ["r"]), helper.make_node("Add", ["r", "x"], ["y"])]
    graph = make_graph(nodes)
    place_for_tensorrt(graph, LAYERS, lambda name: pytest.fail(f"{name} was quantised"))
    assert next(n for n in graph.node if n.op_type == "Reshape").input[0] == "x"
    assert list(graph.node[-1].input) == ["r", "x"]


@pytest.mark.skipif(find_installed_modules(FLAVOURS[RTX]) is None, reason="TensorRT-RTX is not installed")
@pytest.mark.parametrize("sm", [75, 86, 89, 120])
def test_tensorrt_rtx_builds_it_for_every_generation(trt, tmp_path, sm):
    """Turing too, where FP32 matrix products are refused; every convolution of the plan computes in INT8."""
    metadata = build_engine(trt, tmp_path / "e", runtime=RTX, sms=[sm])
    assert metadata.precision == "int8"
    kernels = collections.Counter(re.findall(rb"type=(half|float|int8)", (tmp_path / "e").read_bytes()))
    assert kernels[b"int8"] >= 4


def list_kernels(path, folder):
    """Names of the generated kernels in an engine's plan: each is the sequence of its operations."""
    build_engine(path, folder / "e", runtime=RTX, sms=[86])
    return {name.decode() for name in re.findall(rb"name=__myl_([A-Za-z0-9]+)", (folder / "e").read_bytes())}


ROUNDING = "MinMaxRoun"  # a QuantizeLinear: it clips and rounds


@pytest.mark.skipif(find_installed_modules(FLAVOURS[RTX]) is None, reason="TensorRT-RTX is not installed")
def test_no_kernel_of_the_plan_quantises_twice(fp32, batches, tmp_path, monkeypatch):
    """With quantised outputs of layers, TensorRT-RTX quantised before and behind each ReLU, and the logits."""
    ranges = CalibrationRanges(fp32, batches())
    ranges.write_int8_for_tensorrt(tmp_path / "ours.onnx")
    quantise = CalibrationRanges._quantise

    def quantise_outputs_too(self, settings, nodes, options):
        more = {k: v for k, v in options.items() if k != "OpTypesToExcludeOutputQuantization"}
        return quantise(self, settings, nodes, more)

    monkeypatch.setattr(CalibrationRanges, "_quantise", quantise_outputs_too)
    monkeypatch.setattr(calibration, "place_for_tensorrt", lambda *arguments: None)
    ranges.write_int8_for_tensorrt(tmp_path / "theirs.onnx")
    ours, theirs = (list_kernels(tmp_path / f"{name}.onnx", tmp_path) for name in ("ours", "theirs"))
    assert any(re.search("Relu.*" + ROUNDING, name) for name in ours)
    assert [name for name in ours if name.count(ROUNDING) > 1] == []
    twice = [name for name in theirs if name.count(ROUNDING) > 1]
    assert len(twice) >= 3
    assert any(re.search(f"{ROUNDING}.*Relu.*{ROUNDING}", name) for name in twice)
