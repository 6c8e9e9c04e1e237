from pathlib import Path

import pytest

from skd_bench.energy import EnergyMeter, joules_per_query, open_meter


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
    meter = open_meter(tmp_path)
    assert isinstance(meter, EnergyMeter)
    assert "package-0, package-1" in meter.rail
    assert meter.joules() == 0
    first.write_text("300100")
    second.write_text("200500")
    assert meter.joules() == pytest.approx(0.5)
    assert meter.joules() == pytest.approx(0.5)


def test_a_counter_that_wrapped_goes_on(tmp_path):
    counter = zone(tmp_path, "0", "package-0", 900_000)
    meter = open_meter(tmp_path)
    counter.write_text("100000")
    assert meter.joules() == pytest.approx(0.2)


def test_the_reason_is_given_where_nothing_can_be_read(tmp_path):
    assert "no processor package counter" in open_meter(tmp_path)
    zone(tmp_path, "0", "package-0", 0).write_text("broken")
    assert open_meter(tmp_path).startswith("not measurable here")
    assert "intel-rapl:0" in open_meter(tmp_path)


def test_joules_per_query_subtract_the_idle_machine(tmp_path):
    counter = zone(tmp_path, "0", "package-0", 0, wraps_at=10**12)
    meter = open_meter(tmp_path)

    def query() -> None:
        counter.write_text(str(int(counter.read_text()) + 2_000_000))

    got = joules_per_query(meter, query, seconds=0.05, idle_seconds=0.01)
    assert got["idle_watts"] == 0
    assert got["joules_per_clip"] == pytest.approx(2)
    assert got["interval"] == [pytest.approx(2), pytest.approx(2)]
    assert got["clips"] >= 5
    assert "RAPL" in got["rail"]
