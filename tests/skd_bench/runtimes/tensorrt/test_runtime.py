"""What the TensorRT runtimes refuse to load; engines are built for real, and no GPU is assumed."""

import dataclasses

import pytest

from skd_bench.device.info import device_id, read_device_info
from skd_bench.errors import UserError
from skd_bench.runtimes import find_runtime, registered_runtimes
from skd_bench.runtimes.cuda import why_cuda_unavailable
from skd_bench.runtimes.tensorrt.engine_file import read_engine_metadata
from skd_bench.runtimes.tensorrt.library import FLAVOURS, find_installed_modules
from skd_bench.runtimes.tensorrt.runtime import TensorRTRuntime

RTX = "tensorrt-rtx"
needs_rtx = pytest.mark.skipif(
    find_installed_modules(FLAVOURS[RTX]) is None, reason="TensorRT-RTX does not install on this machine"
)
no_gpu = pytest.mark.skipif(why_cuda_unavailable() is None, reason="a GPU is here to build for")


def change(built_engine, **what):
    dataclasses.replace(read_engine_metadata(built_engine), **what).save(built_engine)


@pytest.mark.parametrize("name", FLAVOURS)
def test_an_unavailable_runtime_is_listed_with_its_reason(name):
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
def test_an_unavailable_runtime_does_not_change_the_device_id():
    device_info = read_device_info()
    assert device_info["runtimes"][RTX] is None
    older = device_info | {"runtimes": {"ort": device_info["runtimes"]["ort"]}}
    assert device_id(device_info) == device_id(older) != device_id(device_info | {"runtimes": {"ort": "0.1"}})


@needs_rtx
@no_gpu
def test_an_engine_cannot_be_loaded_without_a_gpu(built_engine):
    with pytest.raises(
        UserError,
        match=r"built, not run, and cannot run here: .*driver.*skd-edge build net\.onnx --runtime tensorrt-rtx --sm 86",
    ):
        registered_runtimes()[RTX].load(built_engine, threads=1)


@needs_rtx
def test_an_engine_that_does_not_fit_is_refused_before_a_gpu_is_required(built_engine):
    good = read_engine_metadata(built_engine)
    load = registered_runtimes()[RTX].load
    change(built_engine, version="1.0.0.1")
    with pytest.raises(UserError, match=r"was built by tensorrt-rtx 1\.0\.0\.1, and this machine has .*skd-edge build"):
        load(built_engine, threads=1)
    change(built_engine, version=good.version, runtime="tensorrt")
    with pytest.raises(UserError, match="was built for tensorrt, not for tensorrt-rtx"):
        load(built_engine, threads=1)
    change(built_engine, runtime=RTX, version_compatible=True)
    with pytest.raises(UserError, match="contains host code"):
        load(built_engine, threads=1)
    built_engine.write_bytes(built_engine.read_bytes()[:-1])
    with pytest.raises(UserError, match="was changed or only partly copied"):
        load(built_engine, threads=1)


def test_a_missing_file_or_thread_is_refused(tmp_path):
    for name in FLAVOURS:
        with pytest.raises(UserError, match=r"the artefact .*missing\.engine does not exist"):
            TensorRTRuntime(name).load(tmp_path / "missing.engine", threads=1)
        with pytest.raises(UserError, match="at least 1 thread"):
            TensorRTRuntime(name).load(tmp_path / "missing.engine", threads=0)


def test_an_onnx_file_is_not_an_engine(network, tmp_path):
    with pytest.raises(UserError, match=r"net\.onnx has no metadata file .*skd-edge build"):
        registered_runtimes()[RTX].load(network(tmp_path / "net.onnx"), threads=1)


def test_an_unknown_flavour_is_refused():
    with pytest.raises(UserError, match="'tensorrt-lean' is not a TensorRT runtime"):
        TensorRTRuntime("tensorrt-lean")
