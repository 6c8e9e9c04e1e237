"""The GPU in use through NVML: by index, by UUID, and the GPU of a MIG instance."""

import pytest

from skd_bench.device.nvml import find_gpu_in_use, open_nvml_gpu


@pytest.mark.parametrize(
    ("visible", "mhz", "load", "reasons"),
    [
        ("0", 1980, 3, ["idle", "software power cap", "hardware thermal slowdown"]),
        ("1,0", 1410, None, ["hardware power brake"]),  # its driver has only the older name of the function
        ("GPU-a1", 1980, 3, ["idle", "software power cap", "hardware thermal slowdown"]),
        ("MIG-5a", 1410, None, ["hardware power brake"]),
    ],
)
def test_the_clock_is_that_of_the_gpu_in_use(nvml_library, monkeypatch, visible, mhz, load, reasons):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpu = open_nvml_gpu(nvml_library)
    assert (gpu.read_clock_mhz(), gpu.read_load(), gpu.read_throttle_reasons()) == (mhz, load, reasons)


def test_a_gpu_that_is_not_there_is_the_reason(nvml_library, monkeypatch):
    assert find_gpu_in_use() == "0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert find_gpu_in_use() is None
    assert open_nvml_gpu(nvml_library) == "CUDA_VISIBLE_DEVICES hides all GPUs"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert open_nvml_gpu("libnothing-of-the-kind.so").startswith("NVML: ")
