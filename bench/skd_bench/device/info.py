"""Which machine a number was measured on, and whether two numbers may be compared.

Everything is read, nothing is changed: no clock, no governor, no power cap.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np

from skd_bench.device.nvidia_smi import gpu_cards, gpu_states
from skd_bench.device.throttling import power_mode, throttling
from skd_bench.runtimes import runtimes

# The instruction sets that decide which kernels a runtime picks (x86 names, then Arm's).
_ISA = (
    *("sse4_1", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
# The runtimes whose versions are part of a device.
_ALWAYS = ("ort", "tensorrt", "tensorrt-rtx")
# What of a GPU must be equal for two latencies to be compared.
_GPU_SAME = ("name", "uuid", "driver", "power_limit_w")


def device_card() -> dict[str, Any]:
    """Describe this machine as far as it can be read without rights.

    Returns:
        What JSON can write; None where a thing cannot be read. Keys: `cpu`, `cores` (of the machine), `cores_usable`
        (this process may run on), `cpu_quota` (cores' worth of time a container may use), `isa`, `governor`,
        `clock_mhz`, `clock_max_mhz`, `memory_mb`, `load` (averages over 1, 5 and 15 minutes), `temperature_c` (the
        warmest sensor), `throttle` (`device_throttle.throttling`), `gpu_state`, `power_cap_w` (of the processor
        package), `power_mode` (of a Jetson), `boost`, `smt`, `virtual` (whether a hypervisor is below), `os`,
        `kernel`, `machine`, `python`, `numpy`, `runtimes` (name to version, or None), `gpus`
        (`device_gpu.gpu_cards`).
    """
    info, gpus = _cpuinfo(), gpu_cards()
    return {
        "cpu": _cpu_name(info),
        "cores": os.cpu_count(),
        "cores_usable": _usable_cores(),
        "cpu_quota": _cpu_quota(),
        "isa": _isa(info),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clock_mhz": _clock_now(info),
        "clock_max_mhz": _scaled("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", 1e-3),
        "memory_mb": _memory_mb(),
        **_state(gpus),
        "power_mode": power_mode(),
        "boost": _switch("/sys/devices/system/cpu/cpufreq/boost"),
        "smt": _switch("/sys/devices/system/cpu/smt/active"),
        "virtual": "hypervisor" in (info.get("flags") or "").split() if "flags" in info else None,
        "power_cap_w": _scaled("/sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw", 1e-6),
        "os": _os_name(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "runtimes": {name: runtime.version() for name, runtime in runtimes().items()},
        "gpus": gpus,
    }


def device_state() -> dict[str, Any]:
    """What changes while one measures, to be read before and after.

    Returns:
        `load`, `temperature_c`, `throttle` (its `events` count up) and `gpu_state` (temperature, clock, power and what
        holds the clocks back, for each GPU; None without one).
    """
    return _state(gpu_cards())


def _state(gpus: list[dict[str, Any]] | None) -> dict[str, Any]:
    return {
        "load": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "temperature_c": _temperature(),
        "throttle": throttling(),
        "gpu_state": gpu_states(gpus),
    }


def device_id(card: dict[str, Any]) -> str:
    """A short hash of what must be equal for two latencies to be compared.

    That is the processor, the cores and the time a process may use, the instruction sets, the governor, the runtimes'
    versions and the GPUs with their drivers and power limits; not the load, the temperature, the kernel or Python.

    Args:
        card: What `device_card` gave, perhaps read back from JSON.

    Returns:
        12 hexadecimal digits.
    """
    keys = ("cpu", "cores_usable", "cpu_quota", "isa", "governor", "machine", "runtimes")
    same: dict[str, Any] = {key: card.get(key) for key in keys}
    # What cannot run here does not change a latency; nor does a runtime that a newer skd-edge has learned to name, or
    # one to compare with that is installed later: a row's `facts` name the runtime and version that ran it.
    versions = card.get("runtimes") or {}
    same["runtimes"] = {name: versions[name] for name in _ALWAYS if versions.get(name)}
    same["gpus"] = [{k: gpu.get(k) for k in _GPU_SAME} for gpu in card.get("gpus") or []]
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:12]


# ----------------------------------------------------------------------------------------------------- the readings
def _text(path: str | Path) -> str | None:
    try:
        return Path(path).read_text(errors="replace").strip("\0 \n\t") or None
    except OSError:
        return None


def _scaled(path: str | Path, factor: float) -> float | None:
    text = _text(path)
    try:
        return round(int(text) * factor, 3) if text else None
    except ValueError:
        return None


def _switch(path: str) -> bool | None:
    return {"0": False, "1": True}.get(_text(path) or "")


def _cpuinfo() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo; a board's own name stands in its last block."""
    pairs = re.findall(r"^([^:\n]+?)\s*:[ \t]*(.*)$", _text("/proc/cpuinfo") or "", re.MULTILINE)
    info: dict[str, str] = {}
    for key, value in pairs:
        info.setdefault(key, value)
    return info


def _cpu_name(info: dict[str, str]) -> str:
    board = _text("/proc/device-tree/model") or info.get("Model")
    name = info.get("model name") or platform.processor() or platform.machine()
    if "CPU part" in info:
        name += f" (implementer {info.get('CPU implementer')}, part {info['CPU part']})"
    return f"{board}: {name}" if board else name


def _usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _cpu_quota() -> float | None:
    quota, _, period = (_text("/sys/fs/cgroup/cpu.max") or "").partition(" ")
    return round(int(quota) / int(period), 3) if quota.isdigit() and period.isdigit() else None


def _isa(info: dict[str, str]) -> list[str]:
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return [flag for flag in _ISA if flag in flags]


def _clock_now(info: dict[str, str]) -> float | None:
    clock = _scaled("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", 1e-3)
    if clock is None and info.get("cpu MHz"):
        return round(float(info["cpu MHz"]), 1)
    return clock


def _memory_mb() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    except (ValueError, OSError, AttributeError):
        return None


def _temperature() -> float | None:
    zones = [_scaled(p, 1e-3) for p in sorted(Path("/sys/class/thermal").glob("thermal_zone*/temp"))]
    return max((z for z in zones if z is not None and 0 < z < 150), default=None)


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform(terse=True)
