import copy
import json
import os
import platform

import pytest

from skd_bench.device import info as device
from skd_bench.device.info import device_id, read_device_info, read_device_state
from skd_bench.device.nvidia_smi import parse_throttle_reasons, read_gpu_info
from skd_bench.device.throttling import read_power_mode, read_throttling


def test_the_card_names_this_machine_and_can_be_written():
    card = json.loads(json.dumps(read_device_info(), allow_nan=False))
    assert card["cpu"]
    assert 1 <= card["cores_usable"] <= card["cores"] == os.cpu_count()
    assert card["memory_mb"] > 100
    assert card["machine"] == platform.machine()
    assert card["runtimes"]["ort"]
    assert read_device_state().keys() <= card.keys()


def test_the_id_changes_with_what_changes_latency_and_with_nothing_else():
    card = read_device_info()
    same = {**copy.deepcopy(card), "load": [9, 9, 9], "temperature_c": 90, "kernel": "other", "clock_mhz": 1}
    assert device_id(same) == device_id(card) == device_id(json.loads(json.dumps(card)))
    assert len(device_id(card)) == 12
    gpu = {"name": "H", "uuid": "1", "driver": "2", "power_limit_w": 300.0, "temperature_c": 40.0}
    changes = [{"cpu": "x"}, {"cores_usable": 99}, {"isa": []}, {"runtimes": {"ort": "0"}}, {"gpus": [gpu]}]
    assert len({device_id({**card, **change}) for change in changes} | {device_id(card)}) == 6
    assert device_id({**card, "gpus": [gpu]}) == device_id({**card, "gpus": [{**gpu, "temperature_c": 80.0}]})


def test_nvidia_smi_is_read_where_there_is_one(tmp_path, monkeypatch):
    smi = tmp_path / "nvidia-smi"
    line = "NVIDIA H100, GPU-1, 570.1, 700.00, 35, 1980, [N/A], 2619, 71.5, P0, Enabled, Default, 81559"
    # An older driver knows the reasons by their older name only.
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


def test_throttling_is_counted_once_for_each_package(tmp_path):
    assert read_throttling(tmp_path) == {"events": None, "now": None}
    for core, package, events in ((0, 0, 3), (1, 0, 3), (2, 1, 5)):
        home = tmp_path / f"devices/system/cpu/cpu{core}"
        (home / "thermal_throttle").mkdir(parents=True)
        (home / "topology").mkdir()
        (home / "topology/physical_package_id").write_text(f"{package}\n")
        (home / "thermal_throttle/package_throttle_count").write_text(f"{events}\n")
        (home / "thermal_throttle/core_throttle_count").write_text("1\n")
    assert read_throttling(tmp_path)["events"] == 3 + 5 + 3


def test_boards_say_what_holds_them_back(tmp_path):
    firmware = tmp_path / "devices/platform/soc/soc:firmware"
    firmware.mkdir(parents=True)
    (firmware / "get_throttled").write_text("50001\n")
    assert read_throttling(tmp_path)["now"] == ["under-voltage", "throttled since boot"]
    assert read_power_mode(tmp_path) is None
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3\n")
    assert read_power_mode(tmp_path).startswith("nvpmodel unknown; R36")
    (tmp_path / "var/lib/nvpmodel").mkdir(parents=True)
    (tmp_path / "var/lib/nvpmodel/status").write_text("pmode:0002\n")
    assert read_power_mode(tmp_path).startswith("nvpmodel 2; R36")


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
