"""Engines built for real with TensorRT-RTX on whatever machine this is; no GPU is needed."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.runtimes.cuda import why_cuda_unavailable
from skd_bench.runtimes.tensorrt.builder import SUPPORTED_SMS, BuildOptions, build_engine
from skd_bench.runtimes.tensorrt.engine_file import metadata_path, read_engine_metadata
from skd_bench.runtimes.tensorrt.library import (
    FLAVOURS,
    find_installed_modules,
    import_library,
    read_installed_version,
    strip_source_location,
)

RTX = "tensorrt-rtx"
pytestmark = pytest.mark.skipif(
    find_installed_modules(FLAVOURS[RTX]) is None, reason="TensorRT-RTX does not install on this machine"
)


def model(path, nodes, *, batch="batch", out=TensorProto.FLOAT, outputs=("logits",), shape=(3, 2, 4, 5)):
    weights = numpy_helper.from_array(np.ones((int(np.prod(shape)), 7), np.float32), "w")
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("clip", TensorProto.FLOAT, [batch, *shape])],
        [helper.make_tensor_value_info(name, out, None) for name in outputs],
        [weights],
    )
    domains = [helper.make_opsetid("", 18), helper.make_opsetid("somewhere", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=domains, ir_version=10).SerializeToString())
    return path


FLAT = helper.make_node("Flatten", ["clip"], ["flat"], axis=1)
LOGITS = helper.make_node("MatMul", ["flat", "w"], ["logits"])


def test_an_engine_and_its_note(network, tmp_path):
    source, engine = network(tmp_path / "netz ü.onnx"), tmp_path / "out" / "netz.engine"
    steps = []
    note = build_engine(source, engine, runtime=RTX, sms=[89, 86], progress=lambda *step: steps.append(step))
    assert read_engine_metadata(engine) == note
    assert (note.sha256, note.bytes) == (sha256_file(engine), engine.stat().st_size)
    assert (note.source, note.source_sha256) == ("netz ü.onnx", sha256_file(source))
    assert (note.state, note.sms, note.runtime) == ("built, not run", [86, 89], RTX)
    assert note.version == read_installed_version(FLAVOURS[RTX]) == import_library(RTX).version
    assert (note.input, note.shape, note.dtype) == ("clip", [3, 4, 16, 16], "float32")
    assert (note.output, note.classes, note.batches) == ("logits", 3, [1, 1, 8])
    assert (note.gpu is None) == (why_cuda_unavailable() is not None)
    assert "TF32" not in note.flags  # an FP32 file stays FP32
    assert "version_compatible" in json.loads(metadata_path(engine).read_text())
    assert steps[-1][0] == steps[-1][1] > 0
    assert all(done < known for done, known in steps[:-1])


def test_a_fixed_batch_is_kept(tmp_path):
    note = build_engine(model(tmp_path / "m.onnx", [FLAT, LOGITS], batch=2), tmp_path / "e", runtime=RTX, sms=[80])
    assert note.batches == [2, 2, 2]
    assert note.sms == [80]


def test_turing_takes_no_fp32_and_says_so(tmp_path):
    with pytest.raises(UserError, match=r"cannot build .* for SM75: .*not supported.*--precision fp16"):
        build_engine(model(tmp_path / "m.onnx", [FLAT, LOGITS]), tmp_path / "e", runtime=RTX, sms=[75])
    assert not (tmp_path / "e").exists()


def test_what_progress_raises_stops_the_build_in_order(network, tmp_path):
    def stop(done, known):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(network(tmp_path / "n.onnx"), tmp_path / "e" / "n.engine", runtime=RTX, sms=[86], progress=stop)
    assert not (tmp_path / "e").exists()


def test_an_operator_it_does_not_take_is_named_with_its_node(tmp_path):
    odd = helper.make_node("Frobnicate", ["clip"], ["flat"], name="block_3/odd", domain="somewhere")
    with pytest.raises(
        UserError, match=r"TensorRT-RTX 1\S+ does not take the operator Frobnicate.*'block_3/odd'.*odd\.onnx"
    ):
        build_engine(model(tmp_path / "odd.onnx", [odd, LOGITS]), tmp_path / "e", runtime=RTX, sms=[86])
    assert not (tmp_path / "e").exists()


def test_int8_of_another_runtime_is_told_apart(tmp_path):
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
def test_a_file_that_is_no_model_is_told(tmp_path, content):
    (tmp_path / "broken.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.onnx is no ONNX file"):
        build_engine(tmp_path / "broken.onnx", tmp_path / "e", runtime=RTX, sms=[86])


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none\.onnx"):
        build_engine(tmp_path / "none.onnx", tmp_path / "e", runtime=RTX, sms=[86])


def test_a_network_of_another_contract_is_told(tmp_path):
    two = model(tmp_path / "two.onnx", [FLAT, LOGITS], outputs=("logits", "flat"))
    flat = model(tmp_path / "flat.onnx", [helper.make_node("MatMul", ["clip", "w"], ["logits"])], shape=(4,))
    half = [FLAT, LOGITS, helper.make_node("Cast", ["logits"], ["half"], to=TensorProto.FLOAT16)]
    half = model(tmp_path / "half.onnx", half, outputs=("half",), out=TensorProto.FLOAT16)
    for path, why in ((two, "2 outputs"), (flat, "only the batch of a clip"), (half, "logits are float32")):
        with pytest.raises(UserError, match=why):
            build_engine(path, tmp_path / "e", runtime=RTX, sms=[86])


def test_weights_outside_the_file_are_not_read(tmp_path):
    """The parser gets bytes and no path: a file from elsewhere cannot name others on this machine."""
    path = model(tmp_path / "m.onnx", [FLAT, LOGITS])
    loaded = onnx.load(path)
    onnx.save(loaded, path, save_as_external_data=True, location="secret.bin", size_threshold=0)
    with pytest.raises(UserError, match=r"m\.onnx"):
        build_engine(path, tmp_path / "e", runtime=RTX, sms=[86])


def test_a_gpu_it_does_not_build_for_is_told(network, tmp_path):
    with pytest.raises(UserError, match=r"builds for SM75, SM80, .*SM120.*, not for SM52"):
        build_engine(network(tmp_path / "n.onnx"), tmp_path / "e", runtime=RTX, sms=[86, 52])
    assert set(SUPPORTED_SMS) <= set(range(75, 121))


@pytest.mark.skipif(why_cuda_unavailable() is None, reason="a GPU is here to build for")
def test_without_a_gpu_one_must_be_named(network, tmp_path):
    with pytest.raises(UserError, match=r"no GPU here to build for.*--sm 75"):
        build_engine(network(tmp_path / "n.onnx"), tmp_path / "e", runtime=RTX)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (BuildOptions(batches=(2, 1, 3)), "smallest, best and largest"),
        (BuildOptions(batches=(0, 1, 3)), "smallest, best and largest"),
        (BuildOptions(workspace_bytes=1000), "below 1 MiB"),
    ],
)
def test_options_that_cannot_be_are_told(network, tmp_path, options, why):
    with pytest.raises(UserError, match=why):
        build_engine(network(tmp_path / "n.onnx"), tmp_path / "e", runtime=RTX, sms=[86], options=options)


def test_an_unknown_runtime_is_told(network, tmp_path):
    with pytest.raises(UserError, match="no TensorRT called 'ort'"):
        build_engine(network(tmp_path / "n.onnx"), tmp_path / "e", runtime="ort", sms=[86])


def test_its_words_without_its_source_lines():
    said = "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (x: no. In checkType at /_src/a/b.cpp:456)"
    assert strip_source_location(said) == "x: no"
