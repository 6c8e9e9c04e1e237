"""The power sensor of a Jetson board, as files in the layout of hwmon."""

import time
from pathlib import Path

import pytest

from skd_bench.device.energy.ina3221 import find_ina3221_counters
from skd_bench.device.energy.meter import open_energy_meter


def sensor(root: Path, number: int, channels: dict[int, tuple[str, int, int]]) -> Path:
    folder = root / f"hwmon{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text("ina3221\n")
    for n, (label, millivolts, milliamperes) in channels.items():
        (folder / f"in{n}_label").write_text(label + "\n")
        (folder / f"in{n}_input").write_text(f"{millivolts}\n")
        (folder / f"curr{n}_input").write_text(f"{milliamperes}\n")
    return folder


def test_only_the_input_rail_of_a_board_is_read(tmp_path):
    (tmp_path / "hwmon0").mkdir()
    (tmp_path / "hwmon0/name").write_text("cpu_thermal\n")
    folder = sensor(tmp_path, 1, {1: ("VDD_IN", 5000, 2000), 2: ("VDD_CPU_GPU_CV", 5000, 700), 3: ("NC", 0, 0)})
    (folder / "in7_label").write_text("sum of shunt voltages\n")
    meter = open_energy_meter(tmp_path, hwmon=tmp_path, nvml=None)
    assert meter.rail == "VDD_IN (INA3221)"
    begin = time.perf_counter()
    time.sleep(0.1)
    joules, spent = meter.total_joules(), time.perf_counter() - begin
    meter.close()
    assert 0.9 <= joules <= 10 * (spent + 0.05)


def test_without_an_input_rail_all_connected_rails_are_read(tmp_path):
    folder = sensor(tmp_path, 0, {1: ("GPU", 5000, 100), 2: ("CPU", 5000, 200), 3: ("SOC", 5000, 300)})
    (folder / "in3_enable").write_text("0\n")
    counters = find_ina3221_counters(tmp_path, period=0)
    assert [c.rail for c in counters] == ["GPU (INA3221)", "CPU (INA3221)"]
    (folder / "curr1_input").write_text("")
    assert "cannot be read" in find_ina3221_counters(tmp_path, period=0)


def test_changing_power_is_averaged(tmp_path):
    folder = sensor(tmp_path, 0, {1: ("VDD_IN", 5000, 0)})
    [counter] = find_ina3221_counters(tmp_path, period=0)
    begin = time.perf_counter()
    (folder / "curr1_input").write_text("4000\n")
    time.sleep(0.05)
    joules = counter.read_joules_delta()
    assert joules == pytest.approx(10 * (time.perf_counter() - begin), rel=0.5)


ORIN_NANO = {0: {1: ("VDD_IN", 5000, 900), 2: ("VDD_CPU_GPU_CV", 5000, 150), 3: ("VDD_SOC", 5000, 280)}}
AGX_ORIN = {  # its 5 V rail alone leaves the GPU out
    0: {1: ("VDD_GPU_SOC", 10000, 100), 2: ("VDD_CPU_CV", 10000, 200), 3: ("VIN_SYS_5V0", 5000, 300)},
    1: {2: ("VDDQ_VDD2_1V8AO", 5000, 400)},
}
AGX_THOR = {  # the sensor of an idle GPU reads a little below zero
    2: {1: ("VDD_GPU", 19600, -20), 2: ("VDD_CPU_SOC_MSS", 19600, 200), 3: ("VIN_SYS_5V0", 5000, 880)},
    3: {1: ("VDD_OTHER", 5000, 70)},
}


@pytest.mark.parametrize(
    ("board", "rails", "watts"),
    [
        (ORIN_NANO, ["VDD_IN"], 4.5),
        (AGX_ORIN, ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"], 4.5),
        (AGX_THOR, ["VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"], 7.928),
    ],
    ids=["Orin Nano", "AGX Orin", "AGX Thor"],
)
def test_the_rails_of_a_module_count_everything_once(tmp_path, board, rails, watts):
    for number, channels in board.items():
        sensor(tmp_path, number, channels)
    whole_board = tmp_path / "hwmon9"  # Thor's INA238, with the carrier
    whole_board.mkdir()
    for name, text in {
        "name": "ina238",
        "in1_input": "19600",
        "curr1_input": "1200",
        "power1_input": "23520000",
    }.items():
        (whole_board / name).write_text(text)
    counters = find_ina3221_counters(tmp_path, period=0)
    assert [c.rail.split()[0] for c in counters] == rails
    assert sum(c._read_watts() for c in counters) == pytest.approx(watts)
