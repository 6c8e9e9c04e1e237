"""ONNX files that would read other files are found, wherever in the graph they name them, in bounded time."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from skd_bench.bundle.manifest import Artefact, Manifest
from skd_bench.bundle.onnx_file import find_onnx_problem
from skd_bench.bundle.signing import sign_bundle
from skd_bench.errors import UserError
from skd_bench.evaluation.verify_bundle import verify_bundle
from skd_bench.files import sha256_file
from skd_bench.inference.predict import predict

FLOAT = TensorProto.FLOAT


def external_tensor(name="w", *, location_only=False):
    tensor = TensorProto(name=name, data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    if not location_only:
        tensor.external_data.add(key="location", value="../../etc/hostname")
    return tensor


def plain_tensor(name="w", values=(1.0, 2, 3, 4)):
    return numpy_helper.from_array(np.array(values, np.float32), name)


def graph_of(nodes=(), tensors=(), sparse=()):
    output = helper.make_tensor_value_info("y", FLOAT, [4])
    graph = helper.make_graph(list(nodes), "g", [], [output], list(tensors))
    graph.sparse_initializer.extend(sparse)
    return graph


def constant(**attribute):
    return helper.make_node("Constant", [], ["y"], **attribute)


def sparse_tensor(values):
    indices = numpy_helper.from_array(np.arange(4, dtype=np.int64), "i")
    return helper.make_sparse_tensor(values, indices, [8])


def branch_of(inner):
    condition = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    return [
        condition,
        helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=graph_of([constant(value=plain_tensor())])),
    ]


def function_model(node):
    function = helper.make_function("own", "f", [], ["y"], [node], [helper.make_opsetid("", 18)])
    call = helper.make_node("f", [], ["y"], domain="own")
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_model(graph_of([call]), functions=[function], opset_imports=opsets)


HIDING_PLACES = {
    "initializer": lambda t: graph_of(tensors=[t]),
    "constant": lambda t: graph_of([constant(value=t)]),
    "sparse initializer": lambda t: graph_of(sparse=[sparse_tensor(t)]),
    "sparse constant": lambda t: graph_of([constant(sparse_value=sparse_tensor(t))]),
    "list of tensors": lambda t: graph_of([helper.make_node("X", [], ["y"], tensors=[t])]),
    "subgraph": lambda t: graph_of(branch_of(graph_of(tensors=[t]))),
    "constant in a subgraph of a subgraph": lambda t: graph_of(
        branch_of(graph_of(branch_of(graph_of([constant(value=t)]))))
    ),
    "list of graphs": lambda t: graph_of([helper.make_node("X", [], ["y"], graphs=[graph_of(tensors=[t])])]),
}


@pytest.mark.parametrize("place", [*HIDING_PLACES, "function"])
@pytest.mark.parametrize("how", ["external", "location only", "plain"])
def test_external_data_is_found_wherever_it_hides(tmp_path, place, how):
    tensor = plain_tensor() if how == "plain" else external_tensor(location_only=how == "location only")
    if place == "function":
        model = function_model(constant(value=tensor))
    else:
        model = helper.make_model(HIDING_PLACES[place](tensor))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    found = find_onnx_problem(tmp_path / "m.onnx")
    assert found is None if how == "plain" else "external data" in (found or "")


def test_an_operator_that_reads_a_compiled_engine_is_found(tmp_path):
    node = helper.make_node("EPContext", [], ["y"], domain="com.microsoft", embed_mode=0, ep_cache_context="/etc/x")
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph_of([node])).SerializeToString())
    assert "compiled engine" in (find_onnx_problem(tmp_path / "m.onnx") or "")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\x08\x0a", "has no graph"),
        (b"\x08\x0a\x3a\x07\x12", "complete"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "complete"),
        (b"\x3b\x00\x3c", "complete"),
        (b"\xff" * 40, "complete"),
        (b"ORTM" + bytes(100), "complete"),
        (b"PK\x03\x04" + bytes(100), "complete"),
    ],
)
def test_other_files_are_no_onnx_files(tmp_path, content, words):
    (tmp_path / "m.onnx").write_bytes(content)
    assert words in (find_onnx_problem(tmp_path / "m.onnx") or "")


def nested_graphs(levels):
    """A graph that holds a node that holds a graph ...; each of the three lengths of a level is at most five bytes."""
    content = b""
    for number in (6, 5, 1) * levels:  # inside out: graph of an attribute, attribute of a node, node of a graph
        content = bytes([number << 3 | 2]) + varint(len(content)) + content
    return b"\x3a" + varint(len(content)) + content


def varint(value):
    text = bytearray()
    while value >= 0x80:
        text.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*text, value])


def test_deep_and_endless_files_are_refused(tmp_path):
    (tmp_path / "deep.onnx").write_bytes(nested_graphs(2000))
    assert "nests" in (find_onnx_problem(tmp_path / "deep.onnx") or "")
    many = b"\x0a\x00" * 2_100_000  # empty nodes
    (tmp_path / "wide.onnx").write_bytes(b"\x3a" + varint(len(many)) + many)
    assert "fields" in (find_onnx_problem(tmp_path / "wide.onnx") or "")


def overlong_field(number, wire, content):
    """A field whose tag has a 33rd bit, which parsers of protocol buffers cut off."""
    return varint(1 << 32 | number << 3 | wire) + content


def framed(content):
    return varint(len(content)) + content


def model_with(graph_bytes):
    """A model whose graph has these bytes besides its output ``y``."""
    model = helper.make_model(graph_of(), opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    graph = model.graph.SerializeToString() + graph_bytes
    model.ClearField("graph")
    return model.SerializeToString() + b"\x3a" + framed(graph)


def test_a_tag_that_parsers_cut_to_32_bits_hides_no_external_data(tmp_path):
    """ONNX Runtime reads such a file: the values of ``w`` come from the file beside it."""
    (tmp_path / "w.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    location = onnx.StringStringEntryProto(key="location", value="w.bin").SerializeToString()
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[4]).SerializeToString()
    tensor += overlong_field(13, 2, framed(location)) + overlong_field(14, 0, b"\x01")
    node = helper.make_node("Identity", ["w"], ["y"]).SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(model_with(b"\x0a" + framed(node) + b"\x2a" + framed(tensor)))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.run(["y"], {})[0].tolist() == [0, 1, 2, 3]
    assert "complete" in (find_onnx_problem(path) or "")


@pytest.mark.parametrize("operator", ["Loop", "EPContext"])
def test_a_tag_that_parsers_cut_to_32_bits_hides_no_operator(tmp_path, operator):
    node = onnx.NodeProto(output=["y"], domain="com.microsoft").SerializeToString()
    node += overlong_field(4, 2, framed(operator.encode()))
    path = tmp_path / "m.onnx"
    path.write_bytes(model_with(b"\x0a" + framed(node)))
    with pytest.raises(Exception, match=operator):  # this is what ONNX Runtime reads
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert "complete" in (find_onnx_problem(path, loops=False) or "")


# ------------------------------------------------------------------------------------ sign, verify and load refuse it
def put_weights_beside(bundle, file="artefacts/fp32.onnx"):
    """Move the weights of a bundle's file into a second file, and write a manifest that fits."""
    path = bundle / file
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.data", size_threshold=0)
    manifest = Manifest.load(bundle)
    artefact = Artefact(file, sha256_file(path), path.stat().st_size, "fp32", "ort", "tiny", ["tiny"])
    Manifest(**{**vars(manifest), "artefacts": [artefact], "default": file}).save(bundle)
    return bundle


def test_a_bundle_with_weights_beside_its_file_is_neither_verified_nor_signed_nor_run(bundle, keys, video, tmp_path):
    put_weights_beside(bundle)
    assert any("external data" in problem for problem in verify_bundle(bundle).problems)
    with pytest.raises(UserError, match="external data"):
        sign_bundle(bundle, keys / "anna")
    with pytest.raises(UserError, match="external data"):
        predict(bundle, [video(tmp_path / "a.mp4", 30)])
