"""CUDA's errors, and the reasons why it cannot be used."""

import pytest

from skd_bench.errors import UserError
from skd_bench.runtimes.cuda import (
    Gpu,
    call_cuda,
    find_gpu,
    import_cuda_bindings,
    why_cuda_unavailable,
    why_no_nvidia_driver,
)
from skd_bench.runtimes.tensorrt.library import FLAVOURS, find_installed_modules

RTX = "tensorrt-rtx"
no_gpu = pytest.mark.skipif(why_cuda_unavailable() is None, reason="a GPU is here to build for")


@pytest.mark.skipif(
    find_installed_modules(FLAVOURS[RTX]) is None, reason="TensorRT-RTX does not install on this machine"
)
@no_gpu
def test_errors_contain_the_description_of_cuda():
    with pytest.raises(UserError, match=r"CUDA failed in cudaMalloc: .*driver.* \(error \d+\)"):
        call_cuda(import_cuda_bindings().cudaMalloc, 16)
    with pytest.raises(UserError, match="driver"):
        find_gpu()


def test_a_gpu_is_described_with_its_architecture_and_cuda():
    assert str(Gpu("H200", 90, 13020)) == "H200 (SM90, driver for CUDA 13.2)"


def test_a_platform_without_a_driver_is_the_reason(monkeypatch):
    monkeypatch.setattr("sys.platform", "sunos5")
    assert why_no_nvidia_driver() == "there is no NVIDIA driver for the platform sunos5"
    assert why_cuda_unavailable() == why_no_nvidia_driver()
    with pytest.raises(UserError, match="sunos5"):
        find_gpu()
