"""A loop without end in an ONNX file ends by the time limit, which the message names."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from skd_bench.bundle.onnx_file import find_onnx_problem
from skd_bench.errors import UserError
from skd_bench.runtimes import find_runtime, query_limit

BATCH = ["batch", 3, 2, 4, 4]


def endless_network(path):
    """Clips in, logits out, and between them a loop whose condition stays true."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("v", TensorProto.FLOAT, None)],
        [value("go_on", TensorProto.BOOL, []), value("w", TensorProto.FLOAT, None)],
    )
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["clip", "axes"], ["mean"], keepdims=0),
            helper.make_node("Loop", ["", "true", "mean"], ["logits"], body=body),
        ],
        "endless",
        [value("clip", TensorProto.FLOAT, BATCH)],
        [value("logits", TensorProto.FLOAT, ["batch", 3])],
        [
            numpy_helper.from_array(np.array([2, 3, 4]), "axes"),
            numpy_helper.from_array(np.array(True), "true"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_a_loop_without_end_ends_with_a_message(tmp_path, monkeypatch):
    monkeypatch.setattr(query_limit, "QUERY_LIMIT_S", 0.4)
    session = find_runtime("ort").load(endless_network(tmp_path / "m.onnx"), threads=1)
    with pytest.raises(UserError, match=r"did not answer within 0\.4 s and was stopped; it may contain a loop"):
        session.run(np.zeros((1, 3, 2, 4, 4), np.float32))
    session.close()


def test_other_queries_are_not_stopped(network, tmp_path, monkeypatch):
    monkeypatch.setattr(query_limit, "QUERY_LIMIT_S", 0.2)
    session = find_runtime("ort").load(network(tmp_path / "m.onnx"), threads=1)
    clip = np.ones(tuple(n or 1 for n in session.input.shape), np.float32)
    for _ in range(3):
        session.run(clip)
        session._limit._closed.wait(0.15)  # longer than the limit in all
    assert np.isfinite(session.run(clip)).all()
    session.close()


def test_where_a_loop_cannot_be_stopped_it_is_refused(tmp_path):
    path = endless_network(tmp_path / "m.onnx")
    assert find_onnx_problem(path) is None
    assert "a loop, which may never end" in (find_onnx_problem(path, loops=False) or "")
