"""The energy counters of processor packages."""

import pytest

from skd_bench.device.energy.meter import EnergyMeter, open_energy_meter


def test_packages_are_added_and_no_energy_is_counted_twice(tmp_path, zone):
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


def test_a_counter_may_wrap_around(tmp_path, zone):
    counter = zone(tmp_path, "0", "package-0", 900_000)
    meter = open_energy_meter(tmp_path, hwmon=tmp_path, nvml=None)
    counter.write_text("100000")
    assert meter.total_joules() == pytest.approx(0.2)
