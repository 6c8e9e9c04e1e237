"""What the TensorRT runtimes refuse on the machine that runs the tests; engines are real, GPUs are not assumed."""

import dataclasses

import pytest

from skd_bench.device.info import device_id, read_device_info
from skd_bench.errors import UserError
from skd_bench.runtimes import find_runtime, registered_runtimes
from skd_bench.runtimes.cuda import Gpu, call_cuda, find_gpu, import_cuda_bindings, why_cuda_unavailable
from skd_bench.runtimes.tensorrt.builder import build_engine
from skd_bench.runtimes.tensorrt.engine_file import read_engine_metadata
from skd_bench.runtimes.tensorrt.library import FLAVOURS, find_installed_modules, import_library
from skd_bench.runtimes.tensorrt.runtime import TensorRTRuntime
from skd_bench.runtimes.tensorrt.session import TensorRTSession

RTX = "tensorrt-rtx"
needs_rtx = pytest.mark.skipif(
    find_installed_modules(FLAVOURS[RTX]) is None, reason="TensorRT-RTX does not install on this machine"
)
no_gpu = pytest.mark.skipif(why_cuda_unavailable() is None, reason="a GPU is here to build for")


@pytest.fixture
def engine(network, tmp_path):
    build_engine(network(tmp_path / "net.onnx"), tmp_path / "net.engine", runtime=RTX, sms=[86])
    return tmp_path / "net.engine"


def change(engine, **what):
    dataclasses.replace(read_engine_metadata(engine), **what).save(engine)


@pytest.mark.parametrize("name", FLAVOURS)
def test_one_that_cannot_be_used_stays_listed_with_its_reason(name):
    reason = registered_runtimes()[name].why_unavailable()
    if reason is None:
        assert registered_runtimes()[name].version()
        return
    assert FLAVOURS[name].title in reason
    assert "pip install" in reason or "driver" in reason
    assert registered_runtimes()[name].version() is None
    with pytest.raises(UserError, match="cannot be used"):
        find_runtime(name)


@no_gpu
def test_a_runtime_that_cannot_run_here_does_not_make_another_device():
    card = read_device_info()
    assert card["runtimes"][RTX] is None
    older = card | {"runtimes": {"ort": card["runtimes"]["ort"]}}
    assert device_id(card) == device_id(older) != device_id(card | {"runtimes": {"ort": "0.1"}})


@needs_rtx
@no_gpu
def test_without_a_gpu_an_engine_is_built_and_not_run(engine):
    with pytest.raises(
        UserError,
        match=r"built, not run, and cannot run here: .*driver.*skd-edge build net\.onnx --runtime tensorrt-rtx --sm 86",
    ):
        registered_runtimes()[RTX].load(engine, threads=1)


@needs_rtx
def test_a_misfit_is_refused_before_a_gpu_is_looked_for(engine):
    good = read_engine_metadata(engine)
    load = registered_runtimes()[RTX].load
    change(engine, version="1.0.0.1")
    with pytest.raises(UserError, match=r"was built by tensorrt-rtx 1\.0\.0\.1 and this machine has .*skd-edge build"):
        load(engine, threads=1)
    change(engine, version=good.version, runtime="tensorrt")
    with pytest.raises(UserError, match="an engine of tensorrt, not of tensorrt-rtx"):
        load(engine, threads=1)
    change(engine, runtime=RTX, version_compatible=True)
    with pytest.raises(UserError, match="embeds host code"):
        load(engine, threads=1)
    engine.write_bytes(engine.read_bytes()[:-1])
    with pytest.raises(UserError, match="other bytes than were built"):
        load(engine, threads=1)


@needs_rtx
@no_gpu
def test_the_library_itself_is_asked_and_says_no(engine):
    """The last guard, behind the note: deserialising fails as one sentence, and nothing is left open."""
    with pytest.raises(UserError, match=r"TensorRT-RTX .* cannot load .*net\.engine: .*(?i:cuda)"):
        TensorRTSession(
            import_library(RTX),
            engine,
            read_engine_metadata(engine),
            Gpu("none", 86, 0),
            threads=1,
            graphs=True,
            host_code=False,
        )


@pytest.mark.skipif(
    find_installed_modules(FLAVOURS[RTX]) is None, reason="TensorRT-RTX does not install on this machine"
)
@no_gpu
def test_cuda_says_why_in_its_own_words():
    with pytest.raises(UserError, match=r"CUDA failed in cudaMalloc: .*driver.* \(error \d+\)"):
        call_cuda(import_cuda_bindings().cudaMalloc, 16)
    with pytest.raises(UserError, match="driver"):
        find_gpu()


def test_a_missing_file_or_thread_is_told(tmp_path):
    for name in FLAVOURS:
        with pytest.raises(UserError, match="there is no artefact"):
            TensorRTRuntime(name).load(tmp_path / "missing.engine", threads=1)
        with pytest.raises(UserError, match="at least 1 thread"):
            TensorRTRuntime(name).load(tmp_path / "missing.engine", threads=0)


def test_an_onnx_file_is_no_engine(network, tmp_path):
    with pytest.raises(UserError, match=r"net\.onnx has no note .*skd-edge build"):
        registered_runtimes()[RTX].load(network(tmp_path / "net.onnx"), threads=1)


def test_a_third_tensorrt_is_not_known():
    with pytest.raises(UserError, match="no TensorRT called 'tensorrt-lean'"):
        TensorRTRuntime("tensorrt-lean")
