import copy
import json
import os
import platform

import pytest

from skd_bench import device
from skd_bench.device import device_card, device_id, device_state


def test_the_card_names_this_machine_and_can_be_written():
    card = json.loads(json.dumps(device_card(), allow_nan=False))
    assert card["cpu"]
    assert 1 <= card["cores_usable"] <= card["cores"] == os.cpu_count()
    assert card["memory_mb"] > 100
    assert card["machine"] == platform.machine()
    assert card["runtimes"]["ort"]
    assert device_state().keys() <= card.keys()


def test_the_id_changes_with_what_changes_latency_and_with_nothing_else():
    card = device_card()
    same = {**copy.deepcopy(card), "load": [9, 9, 9], "temperature_c": 90, "kernel": "other", "clock_mhz": 1}
    assert device_id(same) == device_id(card) == device_id(json.loads(json.dumps(card)))
    assert len(device_id(card)) == 12
    gpu = {"name": "H", "uuid": "1", "driver": "2", "power_limit_w": 300.0, "temperature_c": 40.0}
    changes = [{"cpu": "x"}, {"cores_usable": 99}, {"isa": []}, {"runtimes": {"ort": "0"}}, {"gpus": [gpu]}]
    assert len({device_id({**card, **change}) for change in changes} | {device_id(card)}) == 6
    assert device_id({**card, "gpus": [gpu]}) == device_id({**card, "gpus": [{**gpu, "temperature_c": 80.0}]})


def test_nvidia_smi_is_read_where_there_is_one(tmp_path, monkeypatch):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA H100, GPU-1, 570.1, 700.00, 35, 1980, [N/A]'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert device._gpus() == [
        {
            "name": "NVIDIA H100",
            "uuid": "GPU-1",
            "driver": "570.1",
            "power_limit_w": 700.0,
            "temperature_c": 35.0,
            "clock_mhz": 1980.0,
            "clock_max_mhz": None,
        }
    ]
    smi.write_text("#!/bin/sh\nexit 9\n")
    assert device._gpus() is None
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert device._gpus() is None


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
    monkeypatch.setattr(device, "_text", lambda path: text if path == "/proc/cpuinfo" else None)
    info = device._cpuinfo()
    assert name in device._cpu_name(info)
    assert len(device._isa(info)) == isa
    if "part" in text:
        assert "0xd0b" in device._cpu_name(info)
