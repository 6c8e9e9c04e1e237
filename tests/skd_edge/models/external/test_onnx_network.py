"""ONNX files as teachers: their logits and features, and the files that are refused."""

from __future__ import annotations

import copy
import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from skd_bench.errors import UserError
from skd_edge.models.external.loader import adapt_external, weights_fingerprint
from skd_edge.models.external.onnx_network import OnnxNetwork, count_onnx_weights
from skd_edge.models.tsm import count_parameters
from skd_edge.recipe.schema import Teacher
from skd_edge.recipe.sections import ClipSettings
from skd_export.graph.onnx_export import CLASSES_KEY

CLIP, NAMES = ClipSettings(frames=4, size=16), ("a", "b", "c")


def clips(count=3):
    return torch.randn(count, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def small(path, *, batch="B", axes=(4, 3, 16, 16), domain="", op="Relu", extra=()):
    """Write a network: ReLU of ``(B, *axes)``, mean over space, a matrix to three logits; return the matrix."""
    flat = 3 * 4 if len(axes) == 4 else 3
    weight = np.random.default_rng(0).standard_normal((flat, 3)).astype(np.float32)
    nodes = [
        helper.make_node(op, ["x"], ["inner"], domain=domain),
        helper.make_node("ReduceMean", ["inner", "axes"], ["mean"], keepdims=0),
        helper.make_node("Flatten", ["mean"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
    ]
    tensors = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([-2, -1]), "axes")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *axes])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])]
    imports = [helper.make_opsetid("", 18), *(helper.make_opsetid(d, 1) for d in extra)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=9), path)
    return weight


@pytest.fixture
def named(tmp_path):
    """A file with class names, as skd-edge exports them, and the weight of its last layer."""
    weight = small(tmp_path / "named.onnx")
    model = onnx.load(tmp_path / "named.onnx")
    helper.set_model_props(model, {CLASSES_KEY: json.dumps(NAMES)})
    onnx.save(model, tmp_path / "named.onnx")
    return tmp_path / "named.onnx", torch.from_numpy(weight)


@torch.no_grad()
def test_classes_are_matched_by_name_and_a_copy_gives_the_same(named):
    path, weight = named
    adapter, x = (
        adapt_external(Teacher(onnx=path), classes=3, clip=CLIP, seed=0, names=("c", "a", "b")).eval(),
        clips(18),
    )
    output = adapter(x)
    expected = x.transpose(1, 2).relu().mean((3, 4)).flatten(1) @ weight
    assert torch.allclose(output.logits, expected[:, [2, 0, 1]], atol=1e-5)
    assert torch.equal(copy.deepcopy(adapter)(x).logits, output.logits)
    assert adapter.widths == ()
    assert output.features == []


@pytest.mark.parametrize("batch", ["B", 1, 4])
@torch.no_grad()
def test_frames_first_and_a_batch_of_a_fixed_size(batch, tmp_path):
    weight = small(tmp_path / "t.onnx", batch=batch)
    adapter = adapt_external(
        Teacher(onnx=tmp_path / "t.onnx", substages=("inner",), layout="BTCHW"), classes=3, clip=CLIP, seed=0
    )
    x = clips(6)
    inner = x.transpose(1, 2).relu()
    assert adapter.input_layout == "frames-first"
    assert torch.allclose(adapter(x).features[0], inner.mean((3, 4)), atol=1e-6)
    assert torch.allclose(adapter(x).logits, inner.mean((3, 4)).flatten(1) @ torch.from_numpy(weight), atol=1e-5)


@torch.no_grad()
def test_a_file_of_single_frames(tmp_path):
    weight = small(tmp_path / "t.onnx", axes=(3, 16, 16))
    adapter, x = adapt_external(Teacher(onnx=tmp_path / "t.onnx"), classes=3, clip=CLIP, seed=0), clips(2)
    assert torch.allclose(adapter(x).logits, x.relu().mean((3, 4)).mean(2) @ torch.from_numpy(weight), atol=1e-5)


def test_tensors_beside_the_file_are_read_and_hashed_and_none_outside_its_folder(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    weight = small(tmp_path / "t.onnx")
    model = onnx.load(tmp_path / "t.onnx")
    onnx.save(
        model, home / "t.onnx", save_as_external_data=True, location="w.bin", size_threshold=0, convert_attribute=False
    )
    teacher = Teacher(onnx=home / "t.onnx")
    x = clips(2)
    expected = x.transpose(1, 2).relu().mean((3, 4)).flatten(1) @ torch.from_numpy(weight)
    assert torch.allclose(adapt_external(teacher, classes=3, clip=CLIP, seed=0)(x).logits, expected, atol=1e-5)
    one = weights_fingerprint(teacher)
    data = bytearray((home / "w.bin").read_bytes())
    (home / "w.bin").write_bytes(bytes(reversed(data)))
    assert weights_fingerprint(teacher) != one

    bare = onnx.load(home / "t.onnx", load_external_data=False)
    for tensor in bare.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../secret" if entry.key == "location" else entry.value
    (tmp_path / "secret").write_bytes(bytes(data))
    onnx.save(bare, home / "evil.onnx")
    with pytest.raises(UserError, match="is not a valid ONNX file"):
        adapt_external(Teacher(onnx=home / "evil.onnx"), classes=3, clip=CLIP, seed=0)


def test_invalid_files_and_settings_are_refused(tmp_path, named):
    small(tmp_path / "custom.onnx", domain="my.ops", op="Secret", extra=("my.ops",))
    with pytest.raises(UserError, match=r"operators that are neither .* \(my.ops.Secret\)"):
        OnnxNetwork(tmp_path / "custom.onnx")
    (tmp_path / "broken.onnx").write_bytes(named[0].read_bytes()[:-40])
    (tmp_path / "text.onnx").write_text("no graph")
    for name in ("broken", "text"):
        with pytest.raises(UserError, match=r"is not a valid ONNX file|no output"):
            OnnxNetwork(tmp_path / f"{name}.onnx")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        OnnxNetwork(tmp_path / "gone.onnx")
    small(tmp_path / "t.onnx")
    with pytest.raises(UserError, match=r"substages names 'inne', which is not a tensor of .*; choose from: inner"):
        OnnxNetwork(tmp_path / "t.onnx", ("inne",))
    with pytest.raises(UserError, match="has 3 classes, but the dataset has 4; name its logits"):
        adapt_external(Teacher(onnx=tmp_path / "t.onnx"), classes=4, clip=CLIP, seed=0)
    with pytest.raises(UserError, match=r"does not have 1 of the dataset's 2 classes \(d\)"):
        adapt_external(Teacher(onnx=named[0]), classes=2, clip=CLIP, seed=0, names=("a", "d"))
    with pytest.raises(UserError, match="does not accept clips"):
        adapt_external(Teacher(onnx=named[0]), classes=3, clip=ClipSettings(frames=8, size=24), seed=0)


def test_an_int_input_is_refused(tmp_path):
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["B", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 3])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "u.onnx")
    with pytest.raises(UserError, match=r"has the inputs \(x: tensor\(uint8\)\); it must have one input of floats"):
        OnnxNetwork(tmp_path / "u.onnx")


def test_class_names_in_metadata_must_be_a_list(tmp_path):
    small(tmp_path / "t.onnx")
    for text in ("{broken", json.dumps({"a": 1})):
        model = onnx.load(tmp_path / "t.onnx")
        helper.set_model_props(model, {CLASSES_KEY: text})
        onnx.save(model, tmp_path / "m.onnx")
        with pytest.raises(UserError, match="class names"):
            adapt_external(Teacher(onnx=tmp_path / "m.onnx"), classes=3, clip=CLIP, seed=0)


def test_the_weights_of_a_file_are_counted(tmp_path):
    """Weights are counted wherever an exporter puts them; integers that are axes or shapes are none."""
    weight = small(tmp_path / "t.onnx")
    teacher = OnnxNetwork(tmp_path / "t.onnx")
    assert teacher.external_weight_count == count_parameters(teacher) == weight.size
    model = onnx.load(tmp_path / "t.onnx")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=model.graph.initializer.pop(0)))
    assert count_onnx_weights(model) == weight.size
    assert count_parameters(torch.nn.ModuleList([teacher, torch.nn.Linear(3, 2)])) == weight.size + 8
