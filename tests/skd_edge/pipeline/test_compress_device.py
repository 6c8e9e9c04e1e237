"""``compress`` where another device measures: one that ssh reaches, and one that a pack is carried to."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from skd_bench.benchmark.latency import LatencyResult, LatencyTarget
from skd_bench.benchmark.measurements import DeviceMeasurements, MeasuredFile
from skd_bench.device.info import device_id
from skd_bench.errors import EXIT_PAUSED, UsageError, UserError
from skd_bench.files import sha256_file
from skd_bench.stats import Interval
from skd_edge.evaluation.devices import OfflineDevice, SshDevice, make_device
from skd_edge.evaluation.local_device import Device
from skd_edge.evaluation.measurement_cache import MeasuredSession
from skd_edge.recipe.sections import BenchmarkSettings
from skd_edge.run_folder import read_journal


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """The finished run, in a folder of this test."""
    return shutil.copytree(finished.folder, tmp_path / "run")


def trained_since(folder: Path, events: int) -> list[str]:
    return [e["event"] for e in read_journal(folder)[events:] if e["event"] in ("job_started", "job_finished")]


def test_a_run_chooses_again_by_the_measurements_of_a_pack(finished, copied, tmp_path, device_python):
    result, events = tmp_path / "RESULT.json", len(read_journal(copied))
    words = [sys.executable, "-m", "skd_edge.cli", "compress", finished.recipe, "--out", copied]
    words += ["--measurements", result]
    done = subprocess.run(words, capture_output=True, text=True, env=finished.environment, check=False)
    assert done.returncode == EXIT_PAUSED, done.stderr
    assert f"{result} is not there yet" in done.stderr
    assert f"Carry {copied / 'carry.pyz'} there" in done.stderr
    there = {**finished.environment, "TMPDIR": str(tmp_path)}
    subprocess.run([device_python, copied / "carry.pyz", "--json", result], check=True, capture_output=True, env=there)
    report = finished.again("--measurements", str(result), out=copied)
    assert trained_since(copied, events) == []
    found = DeviceMeasurements.load(result)
    assert report["device"]["id"] == found.device_id
    p50 = {m.latency.p50.value for m in found.measured}
    assert {row["p50_ms"] for row in report["candidates"]} <= p50
    assert report["baselines"][0]["p50_ms"] in p50
    assert any("the device of --measurements" in note for note in report["notes"])
    assert report["chosen"]


def test_a_recipe_that_names_a_host_is_measured_there(finished, copied, ssh_device):
    events = len(read_journal(copied))
    report = finished.again("--set", "bench.host=device", "--python", str(ssh_device.python), out=copied)
    assert trained_since(copied, events) == []
    assert any("Latencies were measured on device" in note for note in report["notes"])
    version = [ssh_device.python, "-c", "import numpy; print(numpy.__version__)"]
    there = subprocess.run(version, capture_output=True, text=True, check=True).stdout.strip()
    assert report["device"]["numpy"] == there
    assert all(row["p50_ms"] > 0 for row in report["candidates"])
    assert list(ssh_device.tmp.iterdir()) == []


@pytest.mark.parametrize(("old", "new"), [("1.0", "NaN"), ("1.0", "-1.0"), ("1.0", "Infinity"), ('"n": 1', '"n": 2')])
def test_results_with_an_impossible_value_are_refused(tmp_path, old, new):
    latency = LatencyResult("a", [[1.0]], *[None] * 3, 1, 0.1, 0.2, True, None)
    measured = [MeasuredFile("a" * 64, "ort", latency)]
    one = DeviceMeasurements(1, "0" * 12, {"cpu": "A"}, 1, 1, 20, session_count=1, measured=measured)
    file = one.save(tmp_path / "RESULT.json")
    OfflineDevice(BenchmarkSettings(), [file], tmp_path)
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=r"RESULT\.json"):
        OfflineDevice(BenchmarkSettings(), [file], tmp_path)


def test_results_of_two_devices_or_other_threads_are_refused(tmp_path):
    card = {"cpu": "A", "cores_usable": 4}
    one = DeviceMeasurements(1, "0" * 12, card, threads=1, processes=1, queries=20, session_count=1, measured=[])
    first = one.save(tmp_path / "first.json")
    second = DeviceMeasurements(**vars(one) | {"device": card | {"cpu": "B"}}).save(tmp_path / "second.json")
    with pytest.raises(UserError, match=r"second\.json was measured on device .*cpu: A and B"):
        OfflineDevice(BenchmarkSettings(), [first, second], tmp_path)
    with pytest.raises(UserError, match=r"with 1 threads, but the recipe has bench\.threads: 2"):
        OfflineDevice(BenchmarkSettings(threads=2), [first], tmp_path)


def test_a_device_that_changes_during_a_run_is_refused():
    class Changing(Device):
        cards = iter([{"cpu": "A"}, {"cpu": "A", "load": [1]}, {"cpu": "B"}])

        def _measure_uncached(self, targets, progress, clips):
            return MeasuredSession({}, next(self.cards))

    device = Changing(BenchmarkSettings())
    device.measure([])
    device.measure([])
    assert device.device_info == {"cpu": "A"}
    with pytest.raises(UserError, match="cpu: A and B"):
        device.measure([])


def test_a_pack_contains_only_files_that_were_not_measured(tmp_path):
    (tmp_path / "artefacts" / "job").mkdir(parents=True)
    files = [tmp_path / "artefacts" / "job" / name for name in ("fp32.onnx", "int8.onnx")]
    for file in files:
        file.write_text(file.name)
    device = make_device(BenchmarkSettings(), tmp_path, measurements=[tmp_path / "later.json"])
    with pytest.raises(UserError, match=r"1 of 1 files .*later\.json is not there yet") as stopped:
        device.measure([LatencyTarget("the one", files[0])])
    assert stopped.value.exit_code == EXIT_PAUSED
    with zipfile.ZipFile(tmp_path / "carry.pyz") as pack:
        job = json.loads(pack.read("parcel/job.json"))
        assert {pack.read(f["file"]).decode() for f in job["files"]} == {"fp32.onnx", "int8.onnx"}


@pytest.mark.parametrize(
    ("card", "saturates"),
    [
        ({"machine": "x86_64", "isa": ["avx2"]}, True),
        ({"machine": "x86_64", "isa": ["avx512_vnni"]}, False),
        ({"machine": "x86_64", "isa": ["avx_vnni"]}, False),
        ({"machine": "aarch64", "isa": []}, False),
        (None, False),
    ],
)
def test_int8_saturates_on_a_processor_without_vnni(card, saturates):
    device = Device(BenchmarkSettings())
    device._device_info = card
    assert device.int8_saturates is saturates
    assert card is None or device_id(device.device_info) == device_id(card)


def test_the_device_is_that_of_recipe_and_options(tmp_path):
    assert make_device(BenchmarkSettings(), tmp_path).is_local
    linked = make_device(BenchmarkSettings(host="me@board"), tmp_path, python="~/venv/bin/python")
    assert isinstance(linked, SshDevice)
    assert (linked.name, linked.is_local) == ("me@board", False)
    assert isinstance(
        make_device(BenchmarkSettings(host="me@board"), tmp_path, measurements=[tmp_path / "x"]), OfflineDevice
    )
    with pytest.raises(UsageError, match="the host is"):
        make_device(BenchmarkSettings(host="board:22"), tmp_path)


@pytest.mark.parametrize(
    "host", ["", "-oProxyCommand=x", "--", "@x", "a b", "a\nb", "a\n", "$(id)", "ssh://x", "a;b", "ü"]
)
def test_a_recipe_passes_no_options_to_ssh(host):
    with pytest.raises(ValueError, match="host"):
        BenchmarkSettings(host=host)


def test_a_pack_contains_a_file_once_for_all_runtimes(tmp_path):
    (tmp_path / "artefacts" / "job").mkdir(parents=True)
    files = [tmp_path / "artefacts" / "job" / name for name in ("fp32.onnx", "int8.onnx")]
    for file in files:
        file.write_text(file.name)
    device = make_device(
        BenchmarkSettings(runtime=["ort", "openvino"]), tmp_path, measurements=[tmp_path / "later.json"]
    )
    with pytest.raises(UserError, match="2 of 2 files"):
        device.measure([LatencyTarget("a", files[0], "ort"), LatencyTarget("b", files[0], "openvino")])
    with zipfile.ZipFile(tmp_path / "carry.pyz") as pack:
        job = json.loads(pack.read("parcel/job.json"))
        assert len([name for name in pack.namelist() if name.endswith(".onnx")]) == 2
    asked = sorted((f["name"], f["runtime"]) for f in job["files"])
    other = "artefacts/job/int8.onnx on "
    assert asked == [("a", "ort"), (other + "openvino", "openvino"), (other + "ort", "ort"), ("b", "openvino")]
    assert len({name for name, _ in asked}) == 4


def test_results_without_joules_are_not_enough_where_they_are_limited(tmp_path):
    file = tmp_path / "a.onnx"
    file.write_text("a")
    latency = LatencyResult("a", [[1.0, 2.0]], Interval(1.5, 1, 2), None, None, 2, 0.1, 0.2, True, None)
    card = {"cpu": "A", "cores_usable": 4}
    told = {
        "schema": 1,
        "pack": "0" * 12,
        "device": card,
        "threads": 1,
        "processes": 5,
        "queries": 240,
        "session_count": 1,
    }
    for joules in (None, Interval(0.02, 0.01, 0.03)):
        measured = [MeasuredFile(sha256_file(file), "ort", replace(latency, joules=joules))]
        result = DeviceMeasurements(**told, measured=measured, energy=joules is not None).save(tmp_path / "R.json")
        assert (
            make_device(BenchmarkSettings(), tmp_path, measurements=[result])
            .measure([LatencyTarget("x", file)])
            .latency["x"]
            .n
            == 2
        )
        frugal = make_device(BenchmarkSettings(), tmp_path, measurements=[result], energy=True)
        if joules is None:
            with pytest.raises(UserError, match="1 of 1 files have no measurement") as stopped:
                frugal.measure([LatencyTarget("x", file)])
            assert stopped.value.exit_code == EXIT_PAUSED
            with zipfile.ZipFile(tmp_path / "carry.pyz") as pack:
                assert json.loads(pack.read("parcel/job.json"))["settings"]["energy"] is True
        else:
            assert frugal.measure([LatencyTarget("x", file)]).latency["x"].joules == joules
