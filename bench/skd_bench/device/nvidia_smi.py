"""The properties, settings and state of each NVIDIA GPU, as nvidia-smi reports them."""

from __future__ import annotations

import shutil
import subprocess
from typing import TypedDict, cast

# Field of nvidia-smi, key in the device info, type.
_NVIDIA_SMI_FIELDS = (
    ("name", "name", str),
    ("uuid", "uuid", str),
    ("driver_version", "driver", str),
    ("power.limit", "power_limit_w", float),
    ("temperature.gpu", "temperature_c", float),
    ("clocks.sm", "clock_mhz", float),
    ("clocks.max.sm", "clock_max_mhz", float),
    ("clocks.mem", "memory_clock_mhz", float),
    ("power.draw", "power_w", float),
    ("pstate", "pstate", str),
    ("persistence_mode", "persistence", str),
    ("compute_mode", "compute_mode", str),
    ("memory.total", "memory_mb", float),
)
# The reasons for reduced clocks; older drivers know only the second name of the field.
_THROTTLE_FIELDS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
# NVML's nvmlClocksEventReasons bits.
_THROTTLE_BITS = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clocks",
}


class GpuState(TypedDict):
    """The values of a GPU that change during a benchmark, as a JSON object; None where nvidia-smi does not report one.

    `throttle` contains the present reasons for reduced clocks in words, and is empty where there are none.
    """

    temperature_c: float | None
    clock_mhz: float | None
    power_w: float | None
    throttle: list[str] | None


class GpuInfo(GpuState):
    """A GPU as a JSON object; a value is None where nvidia-smi does not report it."""

    name: str | None
    uuid: str | None
    driver: str | None
    power_limit_w: float | None
    clock_max_mhz: float | None
    memory_clock_mhz: float | None
    pstate: str | None
    persistence: str | None
    compute_mode: str | None
    memory_mb: float | None


def read_gpu_info() -> list[GpuInfo] | None:
    """Describe each GPU; None where there is no nvidia-smi or no GPU."""
    for reasons in _THROTTLE_FIELDS:
        rows = _query_nvidia_smi([field for field, _, _ in _NVIDIA_SMI_FIELDS] + [reasons])
        if rows is not None:
            return [_parse_gpu_row(row) for row in rows] or None
    return None


def select_gpu_states(gpus: list[GpuInfo] | None) -> list[GpuState] | None:
    """The values of each GPU that change during a benchmark: temperature, clock, power and throttle reasons."""
    if not gpus:
        return None
    return [
        {
            "temperature_c": gpu.get("temperature_c"),
            "clock_mhz": gpu.get("clock_mhz"),
            "power_w": gpu.get("power_w"),
            "throttle": gpu.get("throttle"),
        }
        for gpu in gpus
    ]


def parse_throttle_reasons(mask: str) -> list[str] | None:
    """Translate NVML's bit mask, such as "0x0000000000000004", into words; None where it is not a number."""
    try:
        bits = int(mask.strip(), 16)
    except ValueError:
        return None
    unknown = bits & ~sum(_THROTTLE_BITS)
    return [reason for bit, reason in _THROTTLE_BITS.items() if bits & bit] + (
        [f"unknown ({unknown:#x})"] if unknown else []
    )


def _query_nvidia_smi(fields: list[str]) -> list[str] | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return [line for line in done.stdout.splitlines() if line.strip()]


def _parse_gpu_row(line: str) -> GpuInfo:
    *texts, mask = [text.strip() for text in line.split(",")]
    values: dict[str, object] = {}
    for (_, name, kind), text in zip(_NVIDIA_SMI_FIELDS, texts, strict=False):
        try:
            values[name] = None if text.startswith("[") else kind(text)
        except ValueError:
            values[name] = None
    return cast(GpuInfo, values | {"throttle": parse_throttle_reasons(mask)})
