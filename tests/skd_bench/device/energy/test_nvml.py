"""The energy counters of GPUs, with a compiled library that has the functions of NVML."""

import shutil
import subprocess

import pytest

from skd_bench.device.energy.nvml import find_nvml_counters


def test_a_missing_library_is_the_reason():
    assert "no GPU energy counter" in find_nvml_counters("libnothing-of-the-kind.so")


def test_nvml_is_called_with_the_signatures_of_its_header(tmp_path):
    """A library with NVML's functions, compiled here: two GPUs, the second without a counter at first."""
    source = tmp_path / "nvml.c"
    source.write_text("""
        static unsigned long long energy = 1000;
        int nvmlInit_v2(void) { return 0; }
        const char *nvmlErrorString(int code) { return code == 3 ? "Not Supported" : "Other"; }
        int nvmlDeviceGetCount_v2(unsigned *count) { *count = COUNT; return 0; }
        int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(index + 1ul); return 0; }
        int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
            if (device != (void *)1ul) return 3;
            *millijoules = energy += 500; return 0; }
    """)
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("a C compiler is not on this machine")
    for count in (1, 2):
        made = tmp_path / f"nvml{count}.so"
        subprocess.run([compiler, "-shared", "-fPIC", f"-DCOUNT={count}", "-o", made, source], check=True)
    [gpu] = find_nvml_counters(str(tmp_path / "nvml1.so"))
    assert gpu.rail == "GPU 0 board (NVML)"
    assert gpu.read_joules_delta() == pytest.approx(0.5)
    assert gpu.read_joules_delta() == pytest.approx(0.5)
    assert "Not Supported" in find_nvml_counters(str(tmp_path / "nvml2.so"))
