"""Stored sessions are used as a whole, latencies of two devices are never mixed, and errors say what to do."""

from __future__ import annotations

import zipfile

import pytest

from skd_bench.benchmark.latency import LatencyResult, LatencyTarget
from skd_bench.benchmark.measurements import SCHEMA, DeviceMeasurements, MeasuredFile
from skd_bench.device.info import device_id, read_device_info
from skd_bench.errors import EXIT_PAUSED, UserError
from skd_bench.files import sha256_file
from skd_bench.stats import Interval
from skd_edge.evaluation.devices import OfflineDevice, SshDevice, make_device
from skd_edge.recipe.sections import BenchmarkSettings

BENCH = BenchmarkSettings(processes=1, queries=20)
LATENCY = LatencyResult("a", [[1.0, 2.0]], Interval(1.5, 1, 2), None, None, 2, 0.1, 0.2, True, None)


@pytest.fixture
def target(exporter) -> LatencyTarget:
    """A real file with random weights."""
    network = exporter.build_untrained_network(exporter.recipe.students[0])
    return LatencyTarget("small", exporter.export_untrained(network, "small", ("fp32",))["fp32"])


def save_result(path, file, *, threads=1, device=None):
    """What a pack with one file writes on a device."""
    info = device or {"cpu": "A", "cores_usable": 4}
    measured = [MeasuredFile(sha256_file(file), "ort", LATENCY)]
    return DeviceMeasurements(SCHEMA, "0" * 12, info, threads, 1, 20, 1, measured).save(path)


def test_this_machine_measures_once_and_reads_the_session_afterwards(target, tmp_path):
    device = make_device(BENCH, tmp_path)
    first = device.measure_latency([target])
    assert list(first) == ["small"]
    assert first["small"].p50.value > 0
    assert device_id(device.device_info) == device_id(read_device_info())
    again = make_device(BENCH, tmp_path, cache_only=True).measure_latency([target])
    assert again["small"].samples_ms == first["small"].samples_ms


def test_without_a_stored_session_nothing_is_measured_if_only_the_cache_may_be_used(target, tmp_path):
    device = make_device(BENCH, tmp_path, cache_only=True)
    with pytest.raises(UserError, match="the run holds no measurement of all 1 files in one session on this machine"):
        device.measure_latency([target])
    with pytest.raises(UserError, match="the run holds no joules of all 1 files"):
        make_device(BENCH, tmp_path, cache_only=True, energy=True).measure_latency([target])


def test_each_host_has_its_own_folder_of_sessions(tmp_path):
    hosts = ("me@board-a", "me@board-b")
    devices = [make_device(BENCH.model_copy(update={"host": host}), tmp_path) for host in hosts]
    assert all(isinstance(device, SshDevice) and not device.is_local for device in devices)
    folders = {device.measurement_cache.folder for device in devices} | {
        make_device(BENCH, tmp_path).measurement_cache.folder
    }
    assert len(folders) == 3
    assert {folder.parent for folder in folders} == {tmp_path / "measurements"}


def test_results_of_a_pack_are_read_by_the_hash_of_the_file(tmp_path):
    (tmp_path / "a.onnx").write_text("a")
    (tmp_path / "same.onnx").write_text("a")
    result = save_result(tmp_path / "R.json", tmp_path / "a.onnx")
    device = OfflineDevice(BENCH, [result], tmp_path)
    found = device.measure_latency([LatencyTarget("other name", tmp_path / "same.onnx")])["other name"]
    assert (found.name, found.samples_ms) == ("other name", [[1.0, 2.0]])
    assert device.device_info == {"cpu": "A", "cores_usable": 4}


def test_a_file_without_a_result_pauses_the_run_and_is_packed(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.onnx").write_text(name)
    result = save_result(tmp_path / "R.json", tmp_path / "a.onnx")
    targets = [LatencyTarget(name, tmp_path / f"{name}.onnx") for name in ("a", "b")]
    with pytest.raises(UserError, match=r"1 of 2 files have no measurement.*Carry .*carry\.pyz") as stopped:
        OfflineDevice(BENCH, [result], tmp_path).measure_latency(targets)
    assert stopped.value.exit_code == EXIT_PAUSED
    with zipfile.ZipFile(tmp_path / "carry.pyz") as pack:
        assert [pack.read(name) for name in pack.namelist() if name.endswith(".onnx")] == [b"b"]


def test_results_with_other_threads_than_the_recipe_are_rejected(tmp_path):
    (tmp_path / "a.onnx").write_text("a")
    result = save_result(tmp_path / "R.json", tmp_path / "a.onnx", threads=2)
    with pytest.raises(UserError, match=r"with 2 threads, but the recipe has bench\.threads: 1; change"):
        OfflineDevice(BENCH, [result], tmp_path)


def test_results_of_two_devices_are_rejected(tmp_path):
    (tmp_path / "a.onnx").write_text("a")
    results = [save_result(tmp_path / f"{cpu}.json", tmp_path / "a.onnx", device={"cpu": cpu}) for cpu in ("A", "B")]
    with pytest.raises(UserError, match="cpu: A and B"):
        OfflineDevice(BENCH, results, tmp_path)
