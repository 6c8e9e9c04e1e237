import shutil
import subprocess
import time
from pathlib import Path

import pytest

from skd_bench.device.energy.ina3221 import find_ina3221_counters
from skd_bench.device.energy.meter import EnergyMeter, measure_joules_per_query, open_energy_meter
from skd_bench.device.energy.nvml import find_nvml_counters


def zone(root: Path, number: str, name: str, energy: int, wraps_at: int = 1_000_000) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(name + "\n")
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text(f"{wraps_at}\n")
    return folder / "energy_uj"


def test_packages_are_summed_and_nothing_is_counted_twice(tmp_path):
    first = zone(tmp_path, "0", "package-0", 100)
    zone(tmp_path, "0:0", "core", 100)
    second = zone(tmp_path, "1", "package-1", 500)
    zone(tmp_path, "2", "psys", 0)
    meter = open_energy_meter(tmp_path, hwmon=tmp_path, nvml=None)
    assert isinstance(meter, EnergyMeter)
    assert meter.joules_by_rail().keys() == {f"processor package (RAPL) package-{i}" for i in (0, 1)}
    assert meter.total_joules() == 0
    first.write_text("300100")
    second.write_text("200500")
    assert meter.total_joules() == pytest.approx(0.5)
    assert meter.total_joules() == pytest.approx(0.5)


def test_a_counter_that_wrapped_goes_on(tmp_path):
    counter = zone(tmp_path, "0", "package-0", 900_000)
    meter = open_energy_meter(tmp_path, hwmon=tmp_path, nvml=None)
    counter.write_text("100000")
    assert meter.total_joules() == pytest.approx(0.2)


def test_the_reason_is_given_where_nothing_can_be_read(tmp_path):
    assert "no processor package counter" in open_energy_meter(tmp_path, hwmon=tmp_path, nvml=None)
    zone(tmp_path, "0", "package-0", 0).write_text("broken")
    assert open_energy_meter(tmp_path, hwmon=tmp_path, nvml=None).startswith("not measurable here")
    assert "intel-rapl:0" in open_energy_meter(tmp_path, hwmon=tmp_path, nvml=None)


def test_joules_per_query_subtract_the_idle_machine(tmp_path):
    counter = zone(tmp_path, "0", "package-0", 0, wraps_at=10**12)
    meter = open_energy_meter(tmp_path, hwmon=tmp_path, nvml=None)

    def query() -> None:
        counter.write_text(str(int(counter.read_text()) + 2_000_000))

    got = measure_joules_per_query(meter, query, seconds=0.05, idle_seconds=0.01)
    assert got["idle_watts"] == 0
    assert got["joules_per_clip"] == pytest.approx(2)
    assert got["interval"] == [pytest.approx(2), pytest.approx(2)]
    assert got["clips"] >= 5
    assert "RAPL" in got["rail"]
    assert got["rails"] == {"processor package (RAPL) package-0": pytest.approx(2)}
    assert got["updates"] == min(got["clips"], 100)


def sensor(root: Path, number: int, channels: dict[int, tuple[str, int, int]]) -> Path:
    folder = root / f"hwmon{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text("ina3221\n")
    for n, (label, millivolts, milliamperes) in channels.items():
        (folder / f"in{n}_label").write_text(label + "\n")
        (folder / f"in{n}_input").write_text(f"{millivolts}\n")
        (folder / f"curr{n}_input").write_text(f"{milliamperes}\n")
    return folder


def test_a_boards_input_rail_is_read_alone(tmp_path):
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


def test_without_an_input_rail_every_wired_rail_counts(tmp_path):
    folder = sensor(tmp_path, 0, {1: ("GPU", 5000, 100), 2: ("CPU", 5000, 200), 3: ("SOC", 5000, 300)})
    (folder / "in3_enable").write_text("0\n")
    counters = find_ina3221_counters(tmp_path, period=0)
    assert [c.rail for c in counters] == ["GPU (INA3221)", "CPU (INA3221)"]
    (folder / "curr1_input").write_text("")
    assert "no power" in find_ina3221_counters(tmp_path, period=0)


def test_power_that_changes_is_averaged(tmp_path):
    folder = sensor(tmp_path, 0, {1: ("VDD_IN", 5000, 0)})
    [counter] = find_ina3221_counters(tmp_path, period=0)
    begin = time.perf_counter()
    (folder / "curr1_input").write_text("4000\n")
    time.sleep(0.05)
    joules = counter.read_joules_delta()
    assert joules == pytest.approx(10 * (time.perf_counter() - begin), rel=0.5)


def test_a_library_that_is_not_there_is_the_reason():
    assert "no GPU energy counter" in find_nvml_counters("libnothing-of-the-kind.so")


def test_nvml_is_called_as_its_header_says(tmp_path):
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
