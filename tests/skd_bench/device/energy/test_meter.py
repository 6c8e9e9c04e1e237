"""The energy meter of a machine, and the energy of one query."""

import pytest

from skd_bench.device.energy.meter import measure_joules_per_query, open_energy_meter


def test_the_reason_is_returned_where_no_counter_can_be_read(tmp_path, zone):
    assert "no processor package counter" in open_energy_meter(tmp_path, hwmon=tmp_path, nvml=None)
    zone(tmp_path, "0", "package-0", 0).write_text("broken")
    assert open_energy_meter(tmp_path, hwmon=tmp_path, nvml=None).startswith("not measurable here")
    assert "intel-rapl:0" in open_energy_meter(tmp_path, hwmon=tmp_path, nvml=None)


def test_joules_per_query_are_above_the_idle_machine(tmp_path, zone):
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
