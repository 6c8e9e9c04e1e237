"""The device info: what this machine is, in which state, and whether latencies of two devices may be compared.

The functions only read. They change no clock, no governor and no power cap.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from skd_bench.device.nvidia_smi import GpuInfo, GpuState, read_gpu_info, select_gpu_states
from skd_bench.device.throttling import Throttling, read_power_mode, read_throttling
from skd_bench.runtimes import registered_runtimes

# The instruction sets by which a runtime chooses its kernels (names on x86, then on Arm).
_KNOWN_ISA_FLAGS = (
    *("sse4_1", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
# The runtimes whose versions are part of the device id. Adding one would change the id of every device.
_DEVICE_RUNTIMES = ("ort", "tensorrt", "tensorrt-rtx")
# The properties of a GPU that must be equal for two latencies to be compared.
_GPU_IDENTITY_KEYS = ("name", "uuid", "driver", "power_limit_w")


class DeviceState(TypedDict):
    """The values of a machine that change during a benchmark, as a JSON object; None where one cannot be read.

    `load` contains averages over 1, 5 and 15 minutes; `temperature_c` is that of the warmest sensor.
    """

    load: list[float] | None
    temperature_c: float | None
    throttle: Throttling
    gpu_state: list[GpuState] | None


class DeviceInfo(DeviceState):
    """The device info, as a JSON object; a value is None where it cannot be read.

    `cores` are all of the machine, `cores_usable` those that the process may use; `cpu_quota` is the processor time of
    a container, in cores; `isa` lists instruction sets; clocks are those of the first core; `memory_mb` is in MiB;
    `power_cap_w` is that of the processor package, `power_mode` that of a Jetson; `virtual` is whether the machine is a
    virtual one; `runtimes` maps names to versions. A device info that another version stored may lack keys.
    """

    cpu: str
    cores: int | None
    cores_usable: int | None
    cpu_quota: float | None
    isa: list[str]
    governor: str | None
    clock_mhz: float | None
    clock_max_mhz: float | None
    memory_mb: int | None
    power_mode: str | None
    boost: bool | None
    smt: bool | None
    virtual: bool | None
    power_cap_w: float | None
    os: str
    kernel: str
    machine: str
    python: str
    numpy: str
    runtimes: dict[str, str | None]
    gpus: list[GpuInfo] | None


def read_device_info() -> DeviceInfo:
    """Describe this machine, as far as that is readable without administrator rights."""
    cpuinfo, gpus = _read_cpuinfo(), read_gpu_info()
    return {
        "cpu": _format_cpu_name(cpuinfo),
        "cores": os.cpu_count(),
        "cores_usable": _count_usable_cores(),
        "cpu_quota": _read_cpu_quota(),
        "isa": _find_isa_flags(cpuinfo),
        "governor": _read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clock_mhz": _read_clock_mhz(cpuinfo),
        "clock_max_mhz": _read_scaled("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", 1e-3),
        "memory_mb": _read_memory_mb(),
        **_read_state(gpus),
        "power_mode": read_power_mode(),
        "boost": _read_switch("/sys/devices/system/cpu/cpufreq/boost"),
        "smt": _read_switch("/sys/devices/system/cpu/smt/active"),
        "virtual": "hypervisor" in (cpuinfo.get("flags") or "").split() if "flags" in cpuinfo else None,
        "power_cap_w": _read_scaled("/sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw", 1e-6),
        "os": _read_os_name(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "runtimes": {name: runtime.version() for name, runtime in registered_runtimes().items()},
        "gpus": gpus,
    }


def read_cpu_name() -> str:
    """The name of the CPU, as in `read_device_info`; reads nothing else."""
    return _format_cpu_name(_read_cpuinfo())


def read_device_state() -> DeviceState:
    """The values that change during a benchmark, to be read before and after it."""
    return _read_state(read_gpu_info())


def _read_state(gpus: list[GpuInfo] | None) -> DeviceState:
    return {
        "load": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "temperature_c": _read_temperature(),
        "throttle": read_throttling(),
        "gpu_state": select_gpu_states(gpus),
    }


def device_id(device_info: Mapping[str, Any]) -> str:
    """A short hash of the properties that must be equal for two latencies to be compared.

    These are the processor, the cores and the processor time of a process, the instruction sets, the governor, the
    versions of the runtimes, the power mode of a Jetson, and the GPUs with their drivers and power limits. The load,
    the temperature, the kernel and Python are not among them.

    Args:
        device_info: A `DeviceInfo`, which may have been stored as JSON, also by another version.

    Returns:
        12 hexadecimal digits.
    """
    keys = ("cpu", "cores_usable", "cpu_quota", "isa", "governor", "machine", "runtimes")
    identity = {key: device_info.get(key) for key in keys}
    # Only some runtimes count, and only where they are available. Otherwise a runtime that is installed later, or one
    # that only a newer skd-edge lists, would make this another device. The `facts` of a row contain the runtime and its
    # version anyway.
    versions = device_info.get("runtimes") or {}
    identity["runtimes"] = {name: versions[name] for name in _DEVICE_RUNTIMES if versions.get(name)}
    if power_mode := device_info.get("power_mode"):  # only a Jetson has one; other devices keep their id
        identity["power_mode"] = power_mode
    identity["gpus"] = [{k: gpu.get(k) for k in _GPU_IDENTITY_KEYS} for gpu in device_info.get("gpus") or []]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


# ----------------------------------------------------------------------------------------------- reading the system
def _read_text(path: str | Path) -> str | None:
    try:
        return Path(path).read_text(errors="replace").strip("\0 \n\t") or None
    except OSError:
        return None


def _read_scaled(path: str | Path, factor: float) -> float | None:
    text = _read_text(path)
    try:
        return round(int(text) * factor, 3) if text else None
    except ValueError:
        return None


def _read_switch(path: str) -> bool | None:
    return {"0": False, "1": True}.get(_read_text(path) or "")


def _read_cpuinfo() -> dict[str, str]:
    """The first value of each key in /proc/cpuinfo: the first processor's, and a board's name from the last block."""
    pairs = re.findall(r"^([^:\n]+?)\s*:[ \t]*(.*)$", _read_text("/proc/cpuinfo") or "", re.MULTILINE)
    info: dict[str, str] = {}
    for key, value in pairs:
        info.setdefault(key, value)
    return info


def _format_cpu_name(info: dict[str, str]) -> str:
    board = _read_text("/proc/device-tree/model") or info.get("Model")
    name = info.get("model name") or platform.processor() or platform.machine()
    if "CPU part" in info:
        name += f" (implementer {info.get('CPU implementer')}, part {info['CPU part']})"
    return f"{board}: {name}" if board else name


def _count_usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _read_cpu_quota() -> float | None:
    quota, _, period = (_read_text("/sys/fs/cgroup/cpu.max") or "").partition(" ")
    return round(int(quota) / int(period), 3) if quota.isdigit() and period.isdigit() else None


def _find_isa_flags(info: dict[str, str]) -> list[str]:
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return [flag for flag in _KNOWN_ISA_FLAGS if flag in flags]


def _read_clock_mhz(info: dict[str, str]) -> float | None:
    clock = _read_scaled("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", 1e-3)
    if clock is None and info.get("cpu MHz"):
        return round(float(info["cpu MHz"]), 1)
    return clock


def _read_memory_mb() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    except (ValueError, OSError, AttributeError):
        return None


def _read_temperature() -> float | None:
    zones = [_read_scaled(p, 1e-3) for p in sorted(Path("/sys/class/thermal").glob("thermal_zone*/temp"))]
    return max((z for z in zones if z is not None and 0 < z < 150), default=None)


def _read_os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform(terse=True)
