"""Throttling counters and flags, in a copy of the layout of sysfs."""

from skd_bench.device.throttling import read_power_mode, read_throttling


def test_package_throttling_is_counted_once_per_package(tmp_path):
    assert read_throttling(tmp_path) == {"events": None, "now": None}
    for core, package, events in ((0, 0, 3), (1, 0, 3), (2, 1, 5)):
        home = tmp_path / f"devices/system/cpu/cpu{core}"
        (home / "thermal_throttle").mkdir(parents=True)
        (home / "topology").mkdir()
        (home / "topology/physical_package_id").write_text(f"{package}\n")
        (home / "thermal_throttle/package_throttle_count").write_text(f"{events}\n")
        (home / "thermal_throttle/core_throttle_count").write_text("1\n")
    assert read_throttling(tmp_path)["events"] == 3 + 5 + 3


def test_flags_and_power_modes_of_boards_are_read(tmp_path):
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
