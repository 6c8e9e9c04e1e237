"""ONNX files that TensorRT's parser refuses, with the reason in one sentence."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from skd_bench.errors import UserError
from skd_bench.runtimes.tensorrt.builder import build_engine
from skd_bench.runtimes.tensorrt.library import FLAVOURS, find_installed_modules

RTX = "tensorrt-rtx"
pytestmark = pytest.mark.skipif(
    find_installed_modules(FLAVOURS[RTX]) is None, reason="TensorRT-RTX does not install on this machine"
)
FLAT = helper.make_node("Flatten", ["clip"], ["flat"], axis=1)
LOGITS = helper.make_node("MatMul", ["flat", "w"], ["logits"])


def test_an_unsupported_operator_is_reported_with_its_node(tmp_path, model):
    odd = helper.make_node("Frobnicate", ["clip"], ["flat"], name="block_3/odd", domain="somewhere")
    with pytest.raises(
        UserError, match=r"TensorRT-RTX 1\S+ does not support the operator Frobnicate.*'block_3/odd'.*odd\.onnx"
    ):
        build_engine(model(tmp_path / "odd.onnx", [odd, LOGITS]), tmp_path / "e", runtime=RTX, sms=[86])
    assert not (tmp_path / "e").exists()


def test_a_file_quantised_for_another_runtime_is_recognised(tmp_path, model):
    graph = onnx.load(model(tmp_path / "q.onnx", [FLAT, LOGITS]))
    scale = numpy_helper.from_array(np.float32(0.1), "s")
    zero = numpy_helper.from_array(np.uint8(7), "z")
    graph.graph.initializer.extend([scale, zero])
    pair = [("QuantizeLinear", "flat", "q"), ("DequantizeLinear", "q", "dq")]
    nodes = [FLAT, *(helper.make_node(op, [x, "s", "z"], [y], name=y) for op, x, y in pair)]
    nodes.append(helper.make_node("MatMul", ["dq", "w"], ["logits"]))
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    (tmp_path / "q.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(UserError, match=r"QuantizeLinear.*quantised for another runtime"):
        build_engine(tmp_path / "q.onnx", tmp_path / "e", runtime=RTX, sms=[86])


@pytest.mark.parametrize("content", [b"", b"this is no model" * 50, b"\x08\x0a"])
def test_a_file_that_is_not_a_model_is_refused(tmp_path, content):
    (tmp_path / "broken.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.onnx is not an ONNX file"):
        build_engine(tmp_path / "broken.onnx", tmp_path / "e", runtime=RTX, sms=[86])


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none\.onnx"):
        build_engine(tmp_path / "none.onnx", tmp_path / "e", runtime=RTX, sms=[86])


def test_other_inputs_and_outputs_are_refused(tmp_path, model):
    two = model(tmp_path / "two.onnx", [FLAT, LOGITS], outputs=("logits", "flat"))
    flat = model(tmp_path / "flat.onnx", [helper.make_node("MatMul", ["clip", "w"], ["logits"])], shape=(4,))
    half = [FLAT, LOGITS, helper.make_node("Cast", ["logits"], ["half"], to=TensorProto.FLOAT16)]
    half = model(tmp_path / "half.onnx", half, outputs=("half",), out=TensorProto.FLOAT16)
    for path, why in ((two, "2 outputs"), (flat, "only the batch of a clip"), (half, "logits must be float32")):
        with pytest.raises(UserError, match=why):
            build_engine(path, tmp_path / "e", runtime=RTX, sms=[86])


def test_weights_outside_the_file_are_not_read(tmp_path, model):
    """The parser gets bytes and not a path, so a file cannot refer to other files of this machine."""
    path = model(tmp_path / "m.onnx", [FLAT, LOGITS])
    loaded = onnx.load(path)
    onnx.save(loaded, path, save_as_external_data=True, location="secret.bin", size_threshold=0)
    with pytest.raises(UserError, match=r"m\.onnx"):
        build_engine(path, tmp_path / "e", runtime=RTX, sms=[86])
