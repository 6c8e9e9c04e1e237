"""The conformance suite of runtimes: it tests every registered runtime."""

import gc
import importlib.util
import json
import os
import runpy
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from skd_bench import runtimes as registry
from skd_bench.errors import UserError
from skd_bench.runtimes import (
    InferenceSession,
    Runtime,
    TensorSpec,
    find_runtime,
    register_runtime,
    registered_runtimes,
)
from skd_bench.runtimes.tensorrt.builder import build_engine

LINEAR = runpy.run_path(str(Path(__file__).parent / "linear_onnx.py"))
linear_onnx, SHAPE, CLASSES = LINEAR["linear_onnx"], LINEAR["SHAPE"], LINEAR["CLASSES"]
WEIGHTS, BIAS = LINEAR["WEIGHTS"], LINEAR["BIAS"]


def tensorrt_engine(name: str):
    """The same network as an engine for the GPU of this machine."""

    def make(path: Path) -> Path:
        build_engine(linear_onnx(path.with_suffix(".source.onnx")), path, runtime=name)
        return path

    return make


def tflite_model(path: Path) -> Path:
    """The same network as a .tflite file."""
    write = runpy.run_path(str(Path(__file__).parents[1] / "tiny_tflite.py"))["linear_tflite"]
    return write(path, WEIGHTS, BIAS, SHAPE)


if importlib.util.find_spec("torch"):  # a study compares with these
    from bench.suites.latency.torch_runtime import register_torch_runtimes

    register_torch_runtimes()

# How to write the linear network for each runtime.
ENGINES = tuple(name for name in registered_runtimes() if name.startswith("tensorrt"))
MAKERS = (
    dict.fromkeys(registered_runtimes(), linear_onnx)
    | {name: tensorrt_engine(name.removesuffix("-nograph")) for name in ENGINES}
    | {"litert": tflite_model}
)
NEED_A_GPU = (*ENGINES, "ort-cuda", "ort-tensorrt", "ort-tensorrt-rtx")
# A session of it compiles for half a minute, and the suite opens a hundred sessions.
SLOW = ("torch-compile",) if os.environ.get("SKD_EDGE_SLOW") != "1" else ()


def is_tested(name: str) -> bool:
    """Whether this suite tests a runtime here: all that this machine has, or those of SKD_EDGE_CONFORMANCE."""
    if only := os.environ.get("SKD_EDGE_CONFORMANCE"):
        return name in only.split(",")
    return name not in SLOW and (name == "ort" or registered_runtimes()[name].why_unavailable() is None)


@pytest.fixture(params=[name for name in sorted(registered_runtimes()) if is_tested(name)])
def engine(request) -> Runtime:
    engine = registered_runtimes()[request.param]
    assert engine.why_unavailable() is None, f"{request.param}: {engine.why_unavailable()}"
    return engine


@pytest.fixture
def artefact(engine, tmp_path) -> Path:
    return MAKERS[engine.name](tmp_path / "tiny net ü.onnx")


@pytest.mark.parametrize("name", NEED_A_GPU)
def test_a_runtime_that_needs_a_gpu_is_listed_with_its_reason(name):
    reason = registered_runtimes()[name].why_unavailable()
    if reason is None:
        pytest.skip("a GPU is here to build for")
    assert registered_runtimes()[name].version() is None
    with pytest.raises(UserError, match=name):
        find_runtime(name)
    assert "driver" in reason or "pip install" in reason


@pytest.fixture
def session(engine, artefact):
    session = engine.load(artefact, threads=1)
    yield session
    session.close()


def clips(batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, *SHAPE)).astype(np.float32)


def expected(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1) @ WEIGHTS + BIAS


# ----------------------------------------------------------------------------------------------------- conformance
@pytest.mark.parametrize("name", sorted(registered_runtimes()))
def test_every_available_runtime_is_in_this_suite(name):
    if name in SLOW:
        pytest.skip(f"{name} compiles for too long: SKD_EDGE_SLOW=1 runs the suite on it")
    if not is_tested(name):
        what = "no GPU runs" if name in NEED_A_GPU else "not installed is"
        pytest.skip(f"{what} {name} here: {registered_runtimes()[name].why_unavailable()}")
    assert name in MAKERS


def test_it_implements_the_protocols(engine, session):
    assert isinstance(engine, Runtime)
    assert isinstance(session, InferenceSession)
    assert find_runtime(engine.name) is engine
    assert session.input.shape == (None, *SHAPE)
    assert session.input.dtype == "float32"
    assert session.output == TensorSpec("logits", (None, CLASSES), "float32")


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_it_computes_the_network(session, batch):
    x = clips(batch)
    got = session.run(x)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected(x), rtol=1e-4, atol=1e-4)


def test_batches_may_change_size_between_queries(session):
    for batch in (1, 3, 1, 2):
        np.testing.assert_allclose(session.run(clips(batch)), expected(clips(batch)), rtol=1e-4, atol=1e-4)


def test_logits_are_not_overwritten_by_later_queries(session):
    x = clips(2)
    first = session.run(x)
    kept = first.copy()
    session.run(clips(2, seed=1))
    np.testing.assert_array_equal(first, kept)
    first[:] = 0
    np.testing.assert_array_equal(session.run(x), kept)


def test_an_array_changed_in_place_is_read_again(session):
    x = clips(2)
    session.run(x)
    x[:] = clips(2, seed=3)
    np.testing.assert_allclose(session.run(x), expected(x), rtol=1e-4, atol=1e-4)


def test_a_view_that_is_not_contiguous_is_read_correctly(session):
    x = clips(4)
    for view in (x[::2], x[::-1], np.asfortranarray(x)):
        np.testing.assert_allclose(session.run(view), expected(view), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(session.run(view), expected(view), rtol=1e-4, atol=1e-4)


def test_an_array_may_be_freed_after_its_query(session):
    for seed in range(5):
        x = clips(3, seed)
        want = expected(x)
        np.testing.assert_allclose(session.run(x), want, rtol=1e-4, atol=1e-4)
        del x
        gc.collect()


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, *SHAPE), np.float64),
        np.zeros((1, 3, 2, 4, 6), np.float32),
        np.zeros(SHAPE, np.float32),
        np.zeros((0, *SHAPE), np.float32),
        np.zeros((1, *SHAPE), np.uint8),
    ],
)
def test_an_input_that_does_not_fit_is_refused(session, wrong):
    with pytest.raises(UserError, match="takes float32"):
        session.run(wrong)
    np.testing.assert_allclose(session.run(clips(1)), expected(clips(1)), rtol=1e-4, atol=1e-4)


def test_the_runtime_info_is_json_and_contains_the_threads(engine, artefact):
    session = engine.load(artefact, threads=2)
    info = json.loads(json.dumps(session.runtime_info()))
    assert info["runtime"] == engine.name
    assert info["version"]
    assert 2 in info.values()
    np.testing.assert_allclose(session.run(clips(1)), expected(clips(1)), rtol=1e-4, atol=1e-4)
    session.close()


def test_two_sessions_are_independent(engine, artefact):
    one, two = engine.load(artefact, threads=1), engine.load(artefact, threads=1)
    x, y = clips(2), clips(2, seed=1)
    first = one.run(x)
    two.run(y)
    np.testing.assert_array_equal(one.run(x), first)
    one.close()
    np.testing.assert_allclose(two.run(y), expected(y), rtol=1e-4, atol=1e-4)
    two.close()


def test_a_closed_session_refuses_queries(engine, artefact):
    session = engine.load(artefact, threads=1)
    x = clips(1)
    session.run(x)
    session.close()
    session.close()
    with pytest.raises(UserError, match="closed"):
        session.run(x)


@pytest.mark.parametrize("content", [b"", b"this is no model" * 50, b"\x08\x0a"])
def test_a_file_that_is_not_a_model_is_refused(engine, tmp_path, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.onnx"):
        engine.load(path, threads=1)


def test_a_truncated_model_is_refused(engine, artefact):
    artefact.write_bytes(artefact.read_bytes()[:200])
    with pytest.raises(UserError, match="tiny net"):
        engine.load(artefact, threads=1)


def test_a_missing_file_or_thread_is_refused(engine, artefact, tmp_path):
    with pytest.raises(UserError, match=r"the artefact .*missing\.onnx does not exist"):
        engine.load(tmp_path / "missing.onnx", threads=1)
    with pytest.raises(UserError, match="at least 1 thread"):
        engine.load(artefact, threads=0)


# -------------------------------------------------------------------------------------------------- the registry
def test_a_name_can_be_registered_once():
    with pytest.raises(ValueError, match="'ort' is registered already"):
        register_runtime(registered_runtimes()["ort"])


def test_an_unknown_runtime_is_reported_with_the_usable_ones():
    with pytest.raises(UserError, match=r"'tensorflow'.*ort"):
        find_runtime("tensorflow")


def test_the_registry_is_read_only():
    with pytest.raises(TypeError):
        registered_runtimes()["x"] = registered_runtimes()["ort"]


def test_a_runtime_that_cannot_be_used_is_listed_with_its_reason(monkeypatch):
    class Absent:
        name = "absent"

        def why_unavailable(self):
            return "nothing is installed; pip install nothing"

        def load(self, path, *, threads):
            raise AssertionError("it must not be loaded")

    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    register_runtime(Absent())
    assert "absent" in registered_runtimes()
    with pytest.raises(UserError, match=r"pip install nothing; usable on this machine: .*ort"):
        find_runtime("absent")


# ------------------------------------------------------------------------------------------- what is particular to one


def network(path: Path, nodes: list, constants: dict, shape: list, classes: int) -> Path:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("clip", TensorProto.FLOAT, ["b", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", classes])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def convolutions(path: Path) -> Path:
    """Every operator of the exported networks of this project, and uneven padding."""
    rng = np.random.default_rng(1)
    node, i64 = helper.make_node, lambda *v: np.array(v, np.int64)
    constants = {
        "k": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "kb": rng.normal(size=4).astype(np.float32),
        "t": rng.normal(size=(4, 1, 3, 1)).astype(np.float32),
        "g": rng.normal(size=(5, 4)).astype(np.float32),
        "gb": rng.normal(size=5).astype(np.float32),
        "low": np.float32(0),
        "high": np.float32(6),
        "frames": i64(-1, 3, 6, 6),
        "time": i64(-1, 2, 9, 4),
        "back": i64(-1, 3, 3, 4),
        "half": np.float32(0.5),
        "clips": i64(-1, 2, 4),
        "hw": i64(2, 3),
        "mid": i64(1),
    }
    nodes = [
        node("Transpose", ["clip"], ["a"], perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["a", "frames"], ["b"], allowzero=1),
        node("Conv", ["b", "k", "kb"], ["c"], pads=[0, 0, 1, 1], strides=[2, 2]),
        node("Clip", ["c", "low", "high"], ["d"]),
        node("Transpose", ["d"], ["e"], perm=[0, 2, 3, 1]),
        node("Reshape", ["e", "time"], ["f"]),
        node("Transpose", ["f"], ["h"], perm=[0, 3, 1, 2]),
        node("Conv", ["h", "t"], ["i"], pads=[1, 0, 1, 0], group=4),
        node("Relu", ["i"], ["j"]),
        node("Add", ["h", "j"], ["l"]),
        node("Mul", ["l", "half"], ["m"]),
        node("Transpose", ["m"], ["n"], perm=[0, 2, 3, 1]),
        node("Reshape", ["n", "back"], ["o"], allowzero=1),
        node("Transpose", ["o"], ["p"], perm=[0, 3, 1, 2]),
        node("ReduceMean", ["p", "hw"], ["q"], keepdims=0),
        node("Reshape", ["q", "clips"], ["r"]),
        node("ReduceMean", ["r", "mid"], ["s"], keepdims=0),
        node("Gemm", ["s", "g", "gb"], ["logits"], transB=1),
    ]
    return network(path, nodes, constants, [3, 2, 6, 6], 5)


def test_all_runtimes_give_the_same_logits_for_a_network_of_convolutions(tmp_path):
    path = convolutions(tmp_path / "net.onnx")
    x = np.random.default_rng(0).normal(size=(3, 3, 2, 6, 6)).astype(np.float32)
    reference = find_runtime("ort").load(path, threads=1).run(x)
    others = [name for name in registered_runtimes() if is_tested(name) and name not in (*ENGINES, "ort", "litert")]
    assert np.abs(reference).max() > 0.5
    for name in others:
        np.testing.assert_allclose(find_runtime(name).load(path, threads=1).run(x), reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("operator", "why"), [("Sinh", "not translated"), ("QuantizeLinear", "quantised; PyTorch's rows are FP32")]
)
def test_an_operator_that_pytorch_does_not_support_is_reported(tmp_path, operator, why):
    pytest.importorskip("torch")
    extra = ["s"] if operator == "QuantizeLinear" else []
    nodes = [helper.make_node("Flatten", ["clip"], ["f"]), helper.make_node(operator, ["f", *extra], ["logits"])]
    path = network(tmp_path / "odd.onnx", nodes, {"s": np.float32(1)}, [3, 1, 1, 1], 3)
    with pytest.raises(UserError, match=rf"odd\.onnx: it holds the operator {operator}: .*{why}"):
        find_runtime("torch-eager").load(path, threads=1)
