"""What ONNX Runtime's session refuses; `test_conformance.py` tests what all runtimes have in common."""

import runpy
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from skd_bench.errors import UserError
from skd_bench.runtimes import find_runtime

TINY = runpy.run_path(str(Path(__file__).parent / "linear_onnx.py"))
linear_onnx, SHAPE = TINY["linear_onnx"], TINY["SHAPE"]


def clips(batch: int) -> np.ndarray:
    return np.zeros((batch, *SHAPE), np.float32)


def test_a_network_with_two_outputs_is_refused(tmp_path):
    with pytest.raises(UserError, match="2 outputs"):
        find_runtime("ort").load(linear_onnx(tmp_path / "two.onnx", outputs=2), threads=1)


def test_a_fixed_batch_size_is_part_of_the_input(tmp_path):
    session = find_runtime("ort").load(linear_onnx(tmp_path / "one.onnx", batch=1), threads=1)
    assert session.input.shape == (1, *SHAPE)
    session.run(clips(1))
    with pytest.raises(UserError, match="not float32"):
        session.run(clips(2))


def test_an_unsupported_input_type_is_refused(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Cast", ["clip"], ["logits"], to=TensorProto.FLOAT)],
        "odd",
        [helper.make_tensor_value_info("clip", TensorProto.STRING, ["b", 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 3])],
    )
    path = tmp_path / "odd.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    with pytest.raises(UserError, match=r"tensor\(string\)"):
        find_runtime("ort").load(path, threads=1)


def test_a_damaged_name_is_refused_and_nothing_is_printed(network, tmp_path, capfd):
    """onnxruntime decodes a name when it is first read, and prints that it tries again where loading fails."""
    content = network(tmp_path / "a.onnx").read_bytes()
    (tmp_path / "b.onnx").write_bytes(content.replace(b"clip", b"cl\xfdp"))
    (tmp_path / "c.onnx").write_bytes(content.replace(b"Flatten", b"Fla\xfdten"))
    (tmp_path / "d.onnx").write_bytes(content.replace(b"batch", b"bat\xfdh"))
    for name in ("b.onnx", "c.onnx", "d.onnx"):
        with pytest.raises(UserError, match=rf"{name}"):
            find_runtime("ort").load(tmp_path / name, threads=1)
    assert "EP Error" not in capfd.readouterr().out
