"""Q/DQ pairs and nodes that only move data: quantised once, before the movement, with the same values."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from skd_bench.runtimes.openvino import OpenVinoRuntime, OpenVinoSession
from skd_export.graph.onnx_export import export_onnx, load_onnx
from skd_export.quantization import calibration
from skd_export.quantization.calibration import CalibrationRanges
from skd_export.quantization.data_movement import simplify_pairs
from skd_export.quantization.quantize import count_executed_operators, quantize_for_ort
from skd_export.quantization.sensitivity import compute_onnx_logits

MOVEMENT = ("Transpose", "Reshape", "Slice", "Split")


class Residual(nn.Module):
    """A convolution over time between two others, without an activation behind it: its zero point is not 0."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.time = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, (3, 1), padding=(1, 0))
        self.before, self.behind, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, clip):
        x = torch.relu(self.stem(clip.transpose(1, 2).reshape(-1, 3, 16, 16)))
        y = self.before(x).reshape(-1, 4, 8, 64).transpose(1, 2)
        y = self.time(y).transpose(1, 2).reshape(-1, 8, 8, 8)
        x = torch.relu(x + self.behind(y))
        return self.head(x.mean((2, 3)).reshape(-1, 4, 8).mean(1))


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("residual") / "fp32.onnx"
    export_onnx(Residual().eval(), path, clip_shape=(4, 16, 16), classes=list("abcde"))
    return path


@pytest.fixture
def both(residual, batches, tmp_path, monkeypatch):
    """The INT8 file as ONNX Runtime's quantiser writes it, and ours."""
    ranges = CalibrationRanges(residual, batches())
    quantize_for_ort(ranges, tmp_path / "ours.onnx")
    monkeypatch.setattr(calibration, "simplify_pairs", lambda graph: None)
    quantize_for_ort(ranges, tmp_path / "theirs.onnx")
    return tmp_path / "theirs.onnx", tmp_path / "ours.onnx"


def test_the_logits_are_the_same_bits_on_onnx_runtime(both, clips):
    theirs, ours = both
    held_out = clips(64, 11)
    np.testing.assert_array_equal(compute_onnx_logits(theirs, held_out), compute_onnx_logits(ours, held_out))
    convolutions = [count_executed_operators(path)["QLinearConv"] for path in both]
    assert convolutions == [4, 4]


def test_no_pair_stands_behind_a_transpose_or_reshape(both):
    theirs, ours = (load_onnx(path).graph for path in both)
    for graph, most in ((theirs, 100), (ours, 0)):
        makers = {name: node.op_type for node in graph.node for name in node.output}
        behind = [n for n in graph.node if n.op_type == "QuantizeLinear" and makers.get(n.input[0]) in MOVEMENT]
        assert bool(behind) == bool(most)
    counts = [Counter(n.op_type for n in graph.node) for graph in (theirs, ours)]
    assert counts[0]["QuantizeLinear"] - counts[1]["QuantizeLinear"] >= 4
    assert all(counts[0][op] == counts[1][op] for op in (*MOVEMENT, "Conv", "Add", "Gemm"))


@pytest.mark.skipif(OpenVinoRuntime().why_unavailable() is not None, reason="openvino is not installed")
def test_openvino_requantises_nothing_around_a_convolution_over_time(both, clips):
    """It ran a kernel that changed nothing behind each transpose and reshape."""
    theirs, ours = (OpenVinoSession(path, 1) for path in both)
    counts = [Counter(layer.kind for layer in session.executed_layers()) for session in (theirs, ours)]
    assert counts[0]["Subgraph"] - counts[1]["Subgraph"] == 4
    assert {layer.precision for layer in ours.executed_layers() if layer.kind == "Convolution"} == {"u8"}
    held_out = clips(64, 11)
    before, after = theirs.run(held_out), ours.run(held_out)
    assert (before.argmax(1) == after.argmax(1)).mean() >= 0.98


def make_model(nodes, shape, ends=("x", "y"), zero=7):
    """A graph of these nodes with two pairs of scale and zero point: `s`, `z` and `s2`, `z`."""
    constants = [
        numpy_helper.from_array(np.float32(0.1), "s"),
        numpy_helper.from_array(np.float32(0.2), "s2"),
        numpy_helper.from_array(np.uint8(zero), "z"),
    ]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ends[:1]]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ends[1:]]
    graph = helper.make_graph(nodes, "g", tensors, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def pair(source, name, scale="s"):
    return [
        helper.make_node("QuantizeLinear", [source, scale, "z"], [f"{name}_q"], f"{name}_q"),
        helper.make_node("DequantizeLinear", [f"{name}_q", scale, "z"], [name], name),
    ]


def transpose(source, name):
    return helper.make_node("Transpose", [source], [name], name, perm=[1, 0])


@pytest.mark.parametrize(
    ("nodes", "pairs"),
    [
        # twice the same pair, with a movement between them: once
        ([*pair("x", "a"), transpose("a", "b"), *pair("b", "c"), helper.make_node("Relu", ["c"], ["y"])], 1),
        # another scale rounds again
        ([*pair("x", "a"), transpose("a", "b"), *pair("b", "c", "s2"), helper.make_node("Relu", ["c"], ["y"])], 2),
        # what computes between two pairs separates them
        ([*pair("x", "a"), helper.make_node("Neg", ["a"], ["b"]), *pair("b", "c"), transpose("c", "y")], 2),
        # somebody else reads the floats: the pair stays where it is
        ([transpose("x", "b"), *pair("b", "c"), helper.make_node("Sub", ["b", "c"], ["y"])], 1),
        # the end of the network is not renamed
        ([transpose("x", "b"), *pair("b", "y")], 1),
        ([*pair("x", "a"), transpose("a", "b"), transpose("b", "c"), *pair("c", "d"), transpose("d", "y")], 1),
    ],
)
def test_values_stay_whatever_is_simplified(nodes, pairs):
    model = make_model(nodes, [4, 4])
    x = np.random.default_rng(0).uniform(-2, 25, (4, 4)).astype(np.float32)
    [before] = ReferenceEvaluator(model).run(None, {"x": x})
    simplify_pairs(model.graph)
    onnx.checker.check_model(model, full_check=True)
    [after] = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_array_equal(before, after)
    assert sum(n.op_type == "QuantizeLinear" for n in model.graph.node) == pairs


def test_the_input_is_quantised_before_it_is_moved():
    model = make_model(
        [transpose("x", "a"), transpose("a", "b"), *pair("b", "c"), helper.make_node("Relu", ["c"], ["y"])], [4, 4]
    )
    simplify_pairs(model.graph)
    assert [n.op_type for n in model.graph.node] == [
        "QuantizeLinear",
        "DequantizeLinear",
        "Transpose",
        "Transpose",
        "Relu",
    ]


def test_scales_of_channels_are_left_alone():
    model = make_model([*pair("x", "a", "many"), transpose("a", "b"), *pair("b", "y", "many")], [3, 3])
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.attribute.append(helper.make_attribute("axis", 0))
    zeros = numpy_helper.from_array(np.zeros(3, np.uint8), "z")
    model.graph.initializer[2].CopyFrom(zeros)
    model.graph.initializer.append(numpy_helper.from_array(np.float32([0.1, 0.2, 0.3]), "many"))
    simplify_pairs(model.graph)
    assert sum(n.op_type == "QuantizeLinear" for n in model.graph.node) == 2
