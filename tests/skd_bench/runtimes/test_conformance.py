"""The conformance suite of runtimes: a new one is held to it by being registered."""

import gc
import importlib.util
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import skd_bench
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
from skd_bench.runtimes.ort import OrtRuntime
from skd_bench.runtimes.tensorrt.builder import build_engine

SHAPE, CLASSES = (3, 2, 4, 5), 7
WEIGHTS = np.random.default_rng(0).normal(size=(int(np.prod(SHAPE)), CLASSES)).astype(np.float32)
BIAS = np.linspace(-1, 1, CLASSES, dtype=np.float32)


def onnx_model(path: Path, *, outputs: int = 1, dtype: int = TensorProto.FLOAT, batch: int | str = "batch") -> Path:
    """`logits = flatten(clip) @ WEIGHTS + BIAS` as an ONNX file."""
    nodes = [
        helper.make_node("Flatten", ["clip"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    names = ["logits", "flat"][:outputs]
    sizes = {"logits": CLASSES, "flat": len(WEIGHTS)}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("clip", dtype, [batch, *SHAPE])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, sizes[n]]) for n in names],
        [numpy_helper.from_array(WEIGHTS, "w"), numpy_helper.from_array(BIAS, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def tensorrt_engine(name: str):
    """The same as an engine for the GPU that is here."""

    def make(path: Path) -> Path:
        build_engine(onnx_model(path.with_suffix(".source.onnx")), path, runtime=name)
        return path

    return make


def tflite_model(path: Path) -> Path:
    """The same as a .tflite file."""
    write = runpy.run_path(str(Path(__file__).parents[1] / "tiny_tflite.py"))["linear_tflite"]
    return write(path, WEIGHTS, BIAS, SHAPE)


if importlib.util.find_spec("torch"):  # what a study compares with is held to the same contract
    from bench.suites.latency.torch_runtime import register_torch_runtimes

    register_torch_runtimes()

# How to write the tiny network for each runtime.
ENGINES = tuple(name for name in registered_runtimes() if name.startswith("tensorrt"))
MAKERS = (
    dict.fromkeys(registered_runtimes(), onnx_model)
    | {name: tensorrt_engine(name.removesuffix("-nograph")) for name in ENGINES}
    | {"litert": tflite_model}
)
NEED_A_GPU = (*ENGINES, "ort-cuda", "ort-tensorrt", "ort-tensorrt-rtx")
# A session of it compiles for half a minute; the suite has a hundred.
SLOW = ("torch-compile",) if os.environ.get("SKD_EDGE_SLOW") != "1" else ()


def held(name: str) -> bool:
    """Whether a runtime goes through the suite here: all do, but those that this machine lacks."""
    return name not in SLOW and (name == "ort" or registered_runtimes()[name].why_unavailable() is None)


@pytest.fixture(params=[name for name in sorted(registered_runtimes()) if held(name)])
def engine(request) -> Runtime:
    engine = registered_runtimes()[request.param]
    assert engine.why_unavailable() is None, f"{request.param}: {engine.why_unavailable()}"
    return engine


@pytest.fixture
def artefact(engine, tmp_path) -> Path:
    return MAKERS[engine.name](tmp_path / "tiny net ü.onnx")


@pytest.mark.parametrize("name", NEED_A_GPU)
def test_one_that_needs_a_gpu_is_listed_with_its_reason(name):
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
def test_the_suite_holds_it(name):
    if name in SLOW:
        pytest.skip(f"{name} compiles for too long: SKD_EDGE_SLOW=1 runs the suite on it")
    if not held(name):
        what = "no GPU runs" if name in NEED_A_GPU else "not installed is"
        pytest.skip(f"{what} {name} here: {registered_runtimes()[name].why_unavailable()}")
    assert name in MAKERS


def test_it_is_what_the_protocols_say(engine, session):
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


def test_answers_belong_to_the_caller(session):
    x = clips(2)
    first = session.run(x)
    kept = first.copy()
    session.run(clips(2, seed=1))
    np.testing.assert_array_equal(first, kept)
    first[:] = 0
    np.testing.assert_array_equal(session.run(x), kept)


def test_an_array_changed_in_place_is_read_anew(session):
    x = clips(2)
    session.run(x)
    x[:] = clips(2, seed=3)
    np.testing.assert_allclose(session.run(x), expected(x), rtol=1e-4, atol=1e-4)


def test_a_view_that_is_not_contiguous_is_read_right(session):
    x = clips(4)
    for view in (x[::2], x[::-1], np.asfortranarray(x)):
        np.testing.assert_allclose(session.run(view), expected(view), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(session.run(view), expected(view), rtol=1e-4, atol=1e-4)


def test_an_array_may_die_after_its_query(session):
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
def test_an_input_that_does_not_fit_is_told(session, wrong):
    with pytest.raises(UserError, match="takes float32"):
        session.run(wrong)
    np.testing.assert_allclose(session.run(clips(1)), expected(clips(1)), rtol=1e-4, atol=1e-4)


def test_facts_can_be_written_and_name_the_threads(engine, artefact):
    session = engine.load(artefact, threads=2)
    facts = json.loads(json.dumps(session.runtime_info()))
    assert facts["runtime"] == engine.name
    assert facts["version"]
    assert 2 in facts.values()
    np.testing.assert_allclose(session.run(clips(1)), expected(clips(1)), rtol=1e-4, atol=1e-4)
    session.close()


def test_two_sessions_do_not_mix(engine, artefact):
    one, two = engine.load(artefact, threads=1), engine.load(artefact, threads=1)
    x, y = clips(2), clips(2, seed=1)
    first = one.run(x)
    two.run(y)
    np.testing.assert_array_equal(one.run(x), first)
    one.close()
    np.testing.assert_allclose(two.run(y), expected(y), rtol=1e-4, atol=1e-4)
    two.close()


def test_a_closed_session_says_so(engine, artefact):
    session = engine.load(artefact, threads=1)
    x = clips(1)
    session.run(x)
    session.close()
    session.close()
    with pytest.raises(UserError, match="closed"):
        session.run(x)


@pytest.mark.parametrize("content", [b"", b"this is no model" * 50, b"\x08\x0a"])
def test_a_file_that_is_no_model_is_told(engine, tmp_path, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.onnx"):
        engine.load(path, threads=1)


def test_a_truncated_model_is_told(engine, artefact):
    artefact.write_bytes(artefact.read_bytes()[:200])
    with pytest.raises(UserError, match="tiny net"):
        engine.load(artefact, threads=1)


def test_a_missing_file_or_thread_is_told(engine, artefact, tmp_path):
    with pytest.raises(UserError, match="there is no artefact"):
        engine.load(tmp_path / "missing.onnx", threads=1)
    with pytest.raises(UserError, match="at least 1 thread"):
        engine.load(artefact, threads=0)


# -------------------------------------------------------------------------------------------------- the registry
def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="'ort' is registered"):
        register_runtime(registered_runtimes()["ort"])


def test_an_unknown_runtime_is_told_with_the_known():
    with pytest.raises(UserError, match=r"'tensorflow'.*ort"):
        find_runtime("tensorflow")


def test_the_registry_cannot_be_written_from_outside():
    with pytest.raises(TypeError):
        registered_runtimes()["x"] = registered_runtimes()["ort"]


def test_a_runtime_that_cannot_be_used_stays_listed_with_its_reason(monkeypatch):
    class Absent:
        name = "absent"

        def why_unavailable(self):
            return "nothing is installed; pip install nothing"

        def load(self, path, *, threads):
            raise AssertionError("never loaded")

    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    register_runtime(Absent())
    assert "absent" in registered_runtimes()
    with pytest.raises(UserError, match=r"pip install nothing; usable on this machine: .*ort"):
        find_runtime("absent")


# ---------------------------------------------------------------------------------------------- ONNX Runtime alone
def test_a_network_with_two_outputs_is_refused(tmp_path):
    with pytest.raises(UserError, match="2 outputs"):
        find_runtime("ort").load(onnx_model(tmp_path / "two.onnx", outputs=2), threads=1)


def test_a_fixed_batch_is_part_of_the_contract(tmp_path):
    session = find_runtime("ort").load(onnx_model(tmp_path / "one.onnx", batch=1), threads=1)
    assert session.input.shape == (1, *SHAPE)
    session.run(clips(1))
    with pytest.raises(UserError, match="not float32"):
        session.run(clips(2))


def test_an_odd_input_type_is_refused(tmp_path):
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


# ------------------------------------------------------------------------------------------- what is particular to one
class NoGpu(OrtRuntime):
    """A provider that does not load: ONNX Runtime falls back to the CPU and only warns."""

    name, provider = "ort-cuda", "CUDAExecutionProvider"

    def choose(self, options):
        return {"providers": ["CPUExecutionProvider"]}


def test_a_session_that_fell_back_to_the_cpu_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"put .* on CPUExecutionProvider, because CUDAExecutionProvider does not load"):
        NoGpu().load(onnx_model(tmp_path / "x.onnx"), threads=1)


def test_openvino_reports_to_nobody(tmp_path):
    if registered_runtimes()["openvino"].why_unavailable():
        pytest.skip("not installed is openvino here")
    code = (
        "import sys; from skd_bench.runtimes import find_runtime; find_runtime('openvino').import_libraries(); "
        "print([m for m in sys.modules if 'openvino_telemetry' in m])"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(Path(skd_bench.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


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
    """Every operator that the own networks export to, and uneven padding."""
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


def test_all_runtimes_give_the_same_answers_to_a_network_of_convolutions(tmp_path):
    path = convolutions(tmp_path / "net.onnx")
    x = np.random.default_rng(0).normal(size=(3, 3, 2, 6, 6)).astype(np.float32)
    reference = find_runtime("ort").load(path, threads=1).run(x)
    others = [name for name in registered_runtimes() if held(name) and name not in (*ENGINES, "ort", "litert")]
    assert np.abs(reference).max() > 0.5
    for name in others:
        np.testing.assert_allclose(find_runtime(name).load(path, threads=1).run(x), reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("operator", "why"), [("Sinh", "not translated"), ("QuantizeLinear", "quantised; PyTorch's rows are FP32")]
)
def test_what_pytorch_does_not_take_is_named(tmp_path, operator, why):
    pytest.importorskip("torch")
    extra = ["s"] if operator == "QuantizeLinear" else []
    nodes = [helper.make_node("Flatten", ["clip"], ["f"]), helper.make_node(operator, ["f", *extra], ["logits"])]
    path = network(tmp_path / "odd.onnx", nodes, {"s": np.float32(1)}, [3, 1, 1, 1], 3)
    with pytest.raises(UserError, match=rf"odd\.onnx: it holds the operator {operator}: .*{why}"):
        find_runtime("torch-eager").load(path, threads=1)
