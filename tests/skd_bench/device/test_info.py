"""The device info of this machine, and its id."""

import copy
import json
import os
import platform

import pytest

from skd_bench.device import info as device
from skd_bench.device.info import device_id, read_device_info, read_device_state


def test_the_device_info_describes_this_machine_and_is_json():
    device_info = json.loads(json.dumps(read_device_info(), allow_nan=False))
    assert device_info["cpu"]
    assert 1 <= device_info["cores_usable"] <= device_info["cores"] == os.cpu_count()
    assert device_info["memory_mb"] > 100
    assert device_info["machine"] == platform.machine()
    assert device_info["runtimes"]["ort"]
    assert read_device_state().keys() <= device_info.keys()


def test_the_device_id_changes_only_with_properties_that_change_latency():
    device_info = read_device_info()
    same = {**copy.deepcopy(device_info), "load": [9, 9, 9], "temperature_c": 90, "kernel": "other", "clock_mhz": 1}
    assert device_id(same) == device_id(device_info) == device_id(json.loads(json.dumps(device_info)))
    assert len(device_id(device_info)) == 12
    gpu = {"name": "H", "uuid": "1", "driver": "2", "power_limit_w": 300.0, "temperature_c": 40.0}
    changes = [{"cpu": "x"}, {"cores_usable": 99}, {"isa": []}, {"runtimes": {"ort": "0"}}, {"gpus": [gpu]}]
    assert len({device_id({**device_info, **change}) for change in changes} | {device_id(device_info)}) == 6
    assert device_id({**device_info, "gpus": [gpu]}) == device_id(
        {**device_info, "gpus": [{**gpu, "temperature_c": 80.0}]}
    )


@pytest.mark.parametrize(
    ("text", "name", "isa"),
    [
        ("model name\t: AMD EPYC\nflags\t\t: fpu avx avx2 avx512_vnni\n\nmodel name\t: other\n", "AMD EPYC", 3),
        (
            "Features\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\nModel\t: Pi 5\n",
            "Pi 5",
            2,
        ),
    ],
)
def test_cpuinfo_of_x86_and_arm(monkeypatch, text, name, isa):
    monkeypatch.setattr(device, "_read_text", lambda path: text if path == "/proc/cpuinfo" else None)
    info = device._read_cpuinfo()
    assert name in device._format_cpu_name(info)
    assert len(device._find_isa_flags(info)) == isa
    if "part" in text:
        assert "0xd0b" in device._format_cpu_name(info)


def test_another_power_mode_of_a_jetson_is_another_device():
    info = read_device_info() | {"power_mode": None}
    slow, fast = (info | {"power_mode": f"nvpmodel {mode}; R36 (release)"} for mode in (1, 0))
    assert len({device_id(info), device_id(slow), device_id(fast)}) == 3
    without_the_key = {key: value for key, value in info.items() if key != "power_mode"}
    assert device_id(without_the_key) == device_id(info)  # other machines keep their id
