"""The clock of a GPU, from NVML or from the files of a Jetson."""

import pytest

from skd_bench.device.gpu_clock import ClockReading, open_gpu_clock


def test_nvml_gives_the_clock_and_what_lowers_it(nvml_library, tmp_path):
    assert open_gpu_clock(tmp_path, nvml=nvml_library)() == ClockReading(1980.0, ("hardware thermal slowdown",))
    assert "NVML" in open_gpu_clock(tmp_path, nvml="libnothing-of-the-kind.so")


@pytest.mark.parametrize("name", ["17000000.ga10b", "17000000.gv11b", "17000000.gpu", "gpu-gpc-0"])
def test_a_jetson_has_its_clock_in_devfreq(tmp_path, nvml_library, name):
    for other in ("emc", name):
        folder = tmp_path / "class/devfreq" / other
        folder.mkdir(parents=True)
        (folder / "cur_freq").write_text("1300500000\n" if other == name else "7\n")
    sensor = tmp_path / "class/hwmon/hwmon3"
    sensor.mkdir(parents=True)
    read = open_gpu_clock(tmp_path, nvml=nvml_library)
    assert read() == ClockReading(1300.5)
    (folder / "cur_freq").write_text("306000000\n")
    (sensor / "oc1_event_cnt").write_text("2\n")
    assert read() == ClockReading(306.0, events=2)
