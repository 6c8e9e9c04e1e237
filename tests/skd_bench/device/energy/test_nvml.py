"""The energy counters of GPUs, with a compiled library that has the functions of NVML."""

import pytest

from skd_bench.device.energy.nvml import find_nvml_counters


def test_a_missing_library_is_the_reason():
    assert "no GPU energy counter" in find_nvml_counters("libnothing-of-the-kind.so")


def test_only_the_gpu_in_use_is_counted(nvml_library, monkeypatch):
    """Two GPUs, the second without a counter."""
    [gpu] = find_nvml_counters(nvml_library)
    assert gpu.rail == "GPU 0 board (NVML)"
    assert gpu.read_joules_delta() == pytest.approx(0.5)
    assert gpu.read_joules_delta() == pytest.approx(0.5)
    for visible, rail in (("0,1", "GPU 0 board (NVML)"), ("GPU-a1", "GPU GPU-a1 board (NVML)")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [counter.rail for counter in find_nvml_counters(nvml_library)] == [rail]
    for visible, reason in (
        ("1", "Not Supported"),
        ("GPU-b1", "Not Supported"),
        ("", "hides all"),
        ("MIG-x", "a part"),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert reason in find_nvml_counters(nvml_library)
