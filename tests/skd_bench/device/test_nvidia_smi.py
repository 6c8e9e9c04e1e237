"""GPUs as nvidia-smi reports them."""

import os

from skd_bench.device.info import read_device_state
from skd_bench.device.nvidia_smi import parse_throttle_reasons, read_gpu_info


def test_the_output_of_nvidia_smi_is_read(tmp_path, monkeypatch):
    smi = tmp_path / "nvidia-smi"
    line = "NVIDIA H100, GPU-1, 570.1, 700.00, 35, 1980, [N/A], 2619, 71.5, P0, Enabled, Default, 81559"
    # An older driver knows only the older name of the field with the reasons.
    smi.write_text(f"#!/bin/sh\ncase $1 in *event*) exit 6;; *) echo '{line}, 0x0000000000000044';; esac\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    [gpu] = read_gpu_info()
    assert gpu["name"] == "NVIDIA H100"
    assert (gpu["uuid"], gpu["driver"], gpu["power_limit_w"], gpu["clock_max_mhz"]) == ("GPU-1", "570.1", 700.0, None)
    assert gpu["throttle"] == ["software power cap", "hardware thermal slowdown"]
    assert read_device_state()["gpu_state"] == [
        {"temperature_c": 35.0, "clock_mhz": 1980.0, "power_w": 71.5, "throttle": gpu["throttle"]}
    ]
    smi.write_text("#!/bin/sh\nexit 9\n")
    assert read_gpu_info() is None
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert read_gpu_info() is None


def test_throttle_reasons_in_words():
    assert parse_throttle_reasons("0x0000000000000000") == []
    assert parse_throttle_reasons("0x1") == ["idle"]
    assert parse_throttle_reasons("0x10000000000") == ["unknown (0x10000000000)"]
    assert parse_throttle_reasons("[N/A]") is None
