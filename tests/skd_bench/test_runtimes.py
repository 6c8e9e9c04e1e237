"""The conformance suite of runtimes: a new one is held to it by being registered."""

import gc
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from skd_bench import runtimes as registry
from skd_bench.errors import UserError
from skd_bench.runtimes import Runtime, Session, TensorSpec, register, runtime, runtimes
from skd_bench.runtimes.tensorrt_build import build_engine

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


# How to write the tiny network for each runtime.
MAKERS = {"ort": onnx_model, **{name: tensorrt_engine(name) for name in ("tensorrt", "tensorrt-rtx")}}
NEED_A_GPU = ("tensorrt", "tensorrt-rtx")


def held(name: str) -> bool:
    """Whether a runtime goes through the suite here: all do, but those that need a GPU where there is none."""
    return name not in NEED_A_GPU or runtimes()[name].missing() is None


@pytest.fixture(params=[name for name in sorted(runtimes()) if held(name)])
def engine(request) -> Runtime:
    engine = runtimes()[request.param]
    assert engine.missing() is None, f"{request.param}: {engine.missing()}"
    return engine


@pytest.fixture
def artefact(engine, tmp_path) -> Path:
    return MAKERS[engine.name](tmp_path / "tiny net ü.onnx")


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
@pytest.mark.parametrize("name", sorted(runtimes()))
def test_the_suite_holds_it(name):
    if not held(name):
        pytest.skip(f"no GPU runs {name} here: {runtimes()[name].missing()}")
    assert name in MAKERS


def test_it_is_what_the_protocols_say(engine, session):
    assert isinstance(engine, Runtime)
    assert isinstance(session, Session)
    assert runtime(engine.name) is engine
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
    facts = json.loads(json.dumps(session.facts()))
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
        register(runtimes()["ort"])


def test_an_unknown_runtime_is_told_with_the_known():
    with pytest.raises(UserError, match=r"'tensorflow'.*ort"):
        runtime("tensorflow")


def test_the_registry_cannot_be_written_from_outside():
    with pytest.raises(TypeError):
        runtimes()["x"] = runtimes()["ort"]


def test_a_runtime_that_cannot_be_used_stays_listed_with_its_reason(monkeypatch):
    class Absent:
        name = "absent"

        def missing(self):
            return "nothing is installed; pip install nothing"

        def load(self, path, *, threads):
            raise AssertionError("never loaded")

    monkeypatch.setattr(registry, "_known", dict(registry._known))
    register(Absent())
    assert "absent" in runtimes()
    with pytest.raises(UserError, match=r"pip install nothing; usable on this machine: ort"):
        runtime("absent")


# ---------------------------------------------------------------------------------------------- ONNX Runtime alone
def test_a_network_with_two_outputs_is_refused(tmp_path):
    with pytest.raises(UserError, match="2 outputs"):
        runtime("ort").load(onnx_model(tmp_path / "two.onnx", outputs=2), threads=1)


def test_a_fixed_batch_is_part_of_the_contract(tmp_path):
    session = runtime("ort").load(onnx_model(tmp_path / "one.onnx", batch=1), threads=1)
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
        runtime("ort").load(path, threads=1)
