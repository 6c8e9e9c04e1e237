"""The energy counters of GPUs, with a compiled library that has the functions of NVML."""

import shutil
import subprocess

import pytest

from skd_bench.device.energy.nvml import find_nvml_counters


def test_a_missing_library_is_the_reason():
    assert "no GPU energy counter" in find_nvml_counters("libnothing-of-the-kind.so")


def test_only_the_gpu_in_use_is_counted(tmp_path, monkeypatch):
    """A library with NVML's functions and signatures, compiled here: two GPUs, the second without a counter."""
    source = tmp_path / "nvml.c"
    source.write_text("""
        static unsigned long long energy = 1000;
        int nvmlInit_v2(void) { return 0; }
        const char *nvmlErrorString(int code) { return code == 3 ? "Not Supported" : "Other"; }
        int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(index + 1ul); return 0; }
        int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
            *device = (void *)(uuid[4] == 'a' ? 1ul : 2ul); return 0; }
        int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
            if (device != (void *)1ul) return 3;
            *millijoules = energy += 500; return 0; }
    """)
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("a C compiler is not on this machine")
    made = tmp_path / "nvml.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, source], check=True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    [gpu] = find_nvml_counters(str(made))
    assert gpu.rail == "GPU 0 board (NVML)"
    assert gpu.read_joules_delta() == pytest.approx(0.5)
    assert gpu.read_joules_delta() == pytest.approx(0.5)
    for visible, rail in (("0,1", "GPU 0 board (NVML)"), ("GPU-a1", "GPU GPU-a1 board (NVML)")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [counter.rail for counter in find_nvml_counters(str(made))] == [rail]
    for visible, reason in (
        ("1", "Not Supported"),
        ("GPU-b1", "Not Supported"),
        ("", "hides all"),
        ("MIG-x", "a part"),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert reason in find_nvml_counters(str(made))
