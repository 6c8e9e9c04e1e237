"""What is particular to OpenVINO; `test_conformance.py` tests what all runtimes have in common."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import skd_bench
from skd_bench.errors import UserError
from skd_bench.runtimes import openvino, registered_runtimes
from skd_bench.runtimes.openvino import OpenVinoSession


def test_openvino_is_imported_without_telemetry(tmp_path):
    if registered_runtimes()["openvino"].why_unavailable():
        pytest.skip("openvino is not installed here")
    code = (
        "import sys; from skd_bench.runtimes import find_runtime; find_runtime('openvino').import_libraries(); "
        "print([m for m in sys.modules if 'openvino_telemetry' in m])"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(Path(skd_bench.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


def test_layers_are_listed_and_timed_only_with_profile(network, tmp_path):
    if registered_runtimes()["openvino"].why_unavailable():
        pytest.skip("openvino is not installed here")
    path = network(tmp_path / "large.onnx", shape=(3, 8, 64, 64))
    plain, profiled = OpenVinoSession(path, 1), OpenVinoSession(path, 1, profile=True)
    clip = np.ones((1, 3, 8, 64, 64), np.float32)
    np.testing.assert_array_equal(plain.run(clip), profiled.run(clip))
    kinds = [layer.kind for layer in profiled.executed_layers()]
    assert "FullyConnected" in kinds
    assert not {"Input", "Output", "Const"} & set(kinds)
    assert all(layer.microseconds == 0 for layer in plain.executed_layers())
    assert sum(plain.runtime_info()["operators"].values()) >= len(kinds)


def test_another_batch_size_is_compiled_once(network, tmp_path):
    if registered_runtimes()["openvino"].why_unavailable():
        pytest.skip("openvino is not installed here")
    session = OpenVinoSession(network(tmp_path / "n.onnx"), 1)
    for batch in (1, *range(2, 12), 1):
        assert session.run(np.zeros((batch, 3, 4, 16, 16), np.float32)).shape == (batch, 3)
    assert len(session._requests) == 8  # the oldest ones were freed


def test_a_bf16_file_is_refused_where_the_cpu_would_compute_it_in_fp32(network, tmp_path, monkeypatch):
    if registered_runtimes()["openvino"].why_unavailable():
        pytest.skip("openvino is not installed here")
    onnx = pytest.importorskip("onnx")
    path = network(tmp_path / "n.onnx")
    monkeypatch.setattr(openvino, "_has_bfloat16", lambda core: False)
    OpenVinoSession(path, 1).close()  # an FP32 file does not need it
    model = onnx.load(path)
    for node in model.graph.node:
        if len(node.input) > 1:
            bf16 = onnx.helper.make_node("Cast", [node.input[0]], ["rounded"], to=onnx.TensorProto.BFLOAT16)
            back = onnx.helper.make_node("Cast", ["rounded"], ["widened"], to=onnx.TensorProto.FLOAT)
            node.input[0] = "widened"
            nodes = [*model.graph.node]
            index = nodes.index(node)
            del model.graph.node[:]
            model.graph.node.extend([*nodes[:index], bf16, back, *nodes[index:]])
            break
    onnx.save(model, tmp_path / "bf16.onnx")
    with pytest.raises(UserError, match="is a BF16 file, and OpenVINO would compute it in FP32 here"):
        OpenVinoSession(tmp_path / "bf16.onnx", 1)
    assert "AVX512-BF16" in openvino.why_no_bfloat16()
