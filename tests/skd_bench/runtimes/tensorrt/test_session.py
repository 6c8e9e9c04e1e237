"""A TensorRT session on a machine without a GPU; `test_conformance.py` tests sessions where there is one."""

import numpy as np
import pytest

from skd_bench.errors import UserError
from skd_bench.runtimes import registered_runtimes
from skd_bench.runtimes.cuda import Gpu, why_cuda_unavailable
from skd_bench.runtimes.tensorrt.builder import build_engine
from skd_bench.runtimes.tensorrt.engine_file import read_engine_metadata
from skd_bench.runtimes.tensorrt.library import FLAVOURS, find_installed_modules, import_library
from skd_bench.runtimes.tensorrt.session import SessionOptions, TensorRTSession

RTX = "tensorrt-rtx"
needs_rtx = pytest.mark.skipif(
    find_installed_modules(FLAVOURS[RTX]) is None, reason="TensorRT-RTX does not install on this machine"
)
no_gpu = pytest.mark.skipif(why_cuda_unavailable() is None, reason="a GPU is here to build for")


@needs_rtx
@no_gpu
def test_a_loading_error_of_the_library_is_reported(built_engine):
    """The metadata fits, but the engine cannot be loaded: the error is one sentence, and all resources are freed."""
    with pytest.raises(UserError, match=r"TensorRT-RTX .* cannot load .*net\.engine: .*(?i:cuda)"):
        TensorRTSession(
            import_library(RTX),
            built_engine,
            read_engine_metadata(built_engine),
            Gpu("none", 86, 0),
            SessionOptions(),
            threads=1,
        )


@pytest.fixture
def double_engine(tensorrt_double, network, tmp_path):
    """An engine of the double."""
    build_engine(network(tmp_path / "net.onnx"), tmp_path / "net.engine", runtime="tensorrt")
    return tmp_path / "net.engine"


def open_session(engine, runtime="tensorrt"):
    return registered_runtimes()[runtime].load(engine, threads=1)


def test_all_that_a_session_creates_is_freed(double_engine):
    from cuda.bindings import runtime as cuda

    session = open_session(double_engine)
    for batch in (1, 8, 3):
        session.run(np.zeros((batch, 3, 4, 16, 16), np.float32))
        session.time_breakdown(np.zeros((batch, 3, 4, 16, 16), np.float32))
    session.close()
    session.close()
    assert cuda.live
    assert not any(cuda.live.values())


def test_without_a_graph_a_query_is_launched_step_by_step(double_engine, tensorrt_double):
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 16, 16)).astype(np.float32)
    with_graph = open_session(double_engine)
    expected = with_graph.run(x)
    tensorrt_double("no-graph")
    session = open_session(double_engine)
    np.testing.assert_array_equal(session.run(x), expected)
    assert "no_graph_reason" not in with_graph.runtime_info()
    info = session.runtime_info()
    assert not info["cuda_graphs"]
    assert "cudaStreamEndCapture" in info["no_graph_reason"]
    for one in (session, with_graph):
        one.close()


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("no-runtime", r"TensorRT 10\.13\.3\+double cannot start: CUDA initialization failure with error: 35"),
        ("no-load", r"cannot load .*net\.engine: Magic tag"),
    ],
)
def test_a_driver_or_an_engine_that_does_not_fit_is_one_sentence(double_engine, tensorrt_double, fault, why):
    tensorrt_double(fault)
    with pytest.raises(UserError, match=why):
        open_session(double_engine)


def test_a_device_that_vanishes_is_one_sentence(double_engine, tensorrt_double):
    session = open_session(double_engine)
    tensorrt_double("lost")
    with pytest.raises(UserError, match=r"CUDA failed in cudaMemcpyAsync: unspecified launch failure"):
        session.run(np.zeros((1, 3, 4, 16, 16), np.float32))
    session.close()


def test_the_memory_that_an_engine_takes_on_the_gpu_is_reported(double_engine, monkeypatch):
    from cuda.bindings import runtime as cuda

    free = iter([1000 << 20, 940 << 20])  # before the engine was loaded, and after
    monkeypatch.setattr(cuda, "cudaMemGetInfo", lambda: (cuda.SUCCESS, next(free), 2000 << 20))
    session = open_session(double_engine)
    assert session.runtime_info()["gpu_mb"] == 60.0
    session.close()
