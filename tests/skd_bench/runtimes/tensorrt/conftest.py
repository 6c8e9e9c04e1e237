"""A network as an ONNX file, and an engine built from one."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from skd_bench.runtimes.tensorrt.builder import build_engine

FLAT = helper.make_node("Flatten", ["clip"], ["flat"], axis=1)


LOGITS = helper.make_node("MatMul", ["flat", "w"], ["logits"])


def write_model(
    path, nodes=(FLAT, LOGITS), *, batch="batch", out=TensorProto.FLOAT, outputs=("logits",), shape=(3, 2, 4, 5)
):
    weights = numpy_helper.from_array(np.ones((int(np.prod(shape)), 7), np.float32), "w")
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("clip", TensorProto.FLOAT, [batch, *shape])],
        [helper.make_tensor_value_info(name, out, None) for name in outputs],
        [weights],
    )
    domains = [helper.make_opsetid("", 18), helper.make_opsetid("somewhere", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=domains, ir_version=10).SerializeToString())
    return path


@pytest.fixture
def model():
    """Writes a network: see `write_model`."""
    return write_model


@pytest.fixture
def built_engine(network, tmp_path):
    build_engine(network(tmp_path / "net.onnx"), tmp_path / "net.engine", runtime="tensorrt-rtx", sms=[86])
    return tmp_path / "net.engine"
