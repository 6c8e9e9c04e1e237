"""A library with NVML's functions and signatures, compiled here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

# Two GPUs: the second has no energy counter, an older name for its reasons, and a MIG instance without a clock.
_SOURCE = """
    static unsigned long long energy = 1000;
    static unsigned long number(void *device) { return (unsigned long)device; }
    int nvmlInit_v2(void) { return 0; }
    const char *nvmlErrorString(int code) { return code == 3 ? "Not Supported" : "Other"; }
    int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(index + 1ul); return 0; }
    int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
        *device = (void *)(uuid[0] == 'M' ? 9ul : uuid[4] == 'a' ? 1ul : 2ul); return 0; }
    int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *part, void **device) {
        if (number(part) != 9) return 3;
        *device = (void *)2ul; return 0; }
    int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
        if (number(device) != 1) return 3;
        *millijoules = energy += 500; return 0; }
    int nvmlDeviceGetClockInfo(void *device, int kind, unsigned *mhz) {
        if (number(device) == 9 || kind != 1) return 3;
        *mhz = number(device) == 1 ? 1980 : 1410; return 0; }
    int nvmlDeviceGetUtilizationRates(void *device, unsigned *rates) {
        if (number(device) != 1) return 3;
        rates[0] = 3; rates[1] = 70; return 0; }
    int nvmlDeviceGetCurrentClocksEventReasons(void *device, unsigned long long *mask) {
        if (number(device) != 1) return 3;
        *mask = 0x1 | 0x4 | 0x40; return 0; }
    int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *mask) { *mask = 0x80; return 0; }
"""


@pytest.fixture
def nvml_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of the library; no GPU is selected."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("a C compiler is not on this machine")
    source, made = tmp_path / "nvml.c", tmp_path / "nvml.so"
    source.write_text(_SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, source], check=True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return str(made)
