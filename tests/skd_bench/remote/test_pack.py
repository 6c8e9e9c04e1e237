"""The one file that is carried to a device and run there, with numpy and a runtime only."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from skd_bench.benchmark.latency import LatencyTarget, measure_latency
from skd_bench.benchmark.measurements import DeviceMeasurements, check_same_device
from skd_bench.errors import UsageError, UserError
from skd_bench.remote.device_lock import EXIT_BUSY, DeviceLock
from skd_bench.remote.pack import MeasurementSettings, pack_bundle, pack_files, write_pack
from skd_bench.remote.runner import run_benchmark

FEW = MeasurementSettings(threads=1, processes=2, queries=20)


def run(python, pack: Path, *words, tmp: Path, **options) -> subprocess.CompletedProcess:
    """As on a device: nothing of the workshop's environment but the folder for temporary files."""
    command = [python, pack.name, *words]
    environment = {"TMPDIR": str(tmp), "HOME": str(tmp), "PATH": os.defpath}
    return subprocess.run(
        command, cwd=pack.parent, env=environment, capture_output=True, text=True, check=False, **options
    )


@pytest.fixture
def there(tmp_path) -> Path:
    """A folder on the device, with a space and a letter beyond ASCII in its name."""
    folder = tmp_path / "über there"
    folder.mkdir()
    return folder


def test_a_carried_bundle_is_measured_as_at_home(bundle, there, tmp_path, device_python):
    assert run_benchmark(bundle, pack=there / "tiny.pyz", **vars(FEW)) is None
    pack = there / "tiny.pyz"
    seen = subprocess.run([device_python, "-c", "import skd_bench"], capture_output=True, check=False)
    assert seen.returncode != 0  # what it measures with is in the pack
    done = run(device_python, pack, tmp=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "* artefacts/fp32.onnx" in done.stdout
    assert "wrote tiny.json" in done.stdout
    assert {p.name for p in there.iterdir()} == {"tiny.pyz", "tiny.json"}
    found = DeviceMeasurements.load(there / "tiny.json")
    assert [m.latency.n for m in found.measured] == [40, 40]
    assert found.bench["artefacts"][1]["latency"]["p50_ms"] == found.measured[1].latency.p50.value
    assert found.bench["device_id"] == found.device_id


def test_equal_content_is_equal_bytes_and_little(bundle, tmp_path):
    pack = pack_bundle(bundle, FEW)
    for path in bundle.rglob("*"):
        os.utime(path, (1e9, 1e9))
    assert pack_bundle(bundle, FEW) == pack
    assert pack_bundle(bundle, MeasurementSettings(2, 2, 20)) != pack
    path = write_pack(tmp_path / "a.pyz", pack, outside=bundle)
    with zipfile.ZipFile(path) as file:
        code = [i for i in file.infolist() if not i.filename.startswith("parcel/")]
        assert file.namelist() == sorted(file.namelist())
    assert sum(i.compress_size for i in code) < 2**20
    assert not any(".." in i.filename or i.filename.endswith(".pyc") for i in code)


def test_a_pack_that_cannot_be_is_told(bundle, tmp_path):
    with pytest.raises(UsageError, match="lies in the bundle"):
        run_benchmark(bundle, pack=bundle / "artefacts" / "x.pyz")
    with pytest.raises(UsageError, match="give one of them"):
        run_benchmark(bundle, pack=tmp_path / "x.pyz", host="device")
    with pytest.raises(UserError, match=r"cannot read .*gone\.onnx"):
        pack_files([LatencyTarget("gone", tmp_path / "gone.onnx")], FEW)
    (bundle / "artefacts" / "other.onnx").write_bytes(b"changed")
    with pytest.raises(UserError, match="is not as it was written"):
        run_benchmark(bundle, pack=tmp_path / "x.pyz")
    assert not list(tmp_path.rglob("*.pyz"))


def test_a_device_that_stopped_goes_on(network, there, tmp_path, device_python):
    targets = [LatencyTarget("a", network(tmp_path / "a.onnx"))]
    pack = write_pack(there / "a.pyz", pack_files(targets, MeasurementSettings(1, 4, 20)))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([device_python, pack], cwd=there, env=environment, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (kept := list(there.glob("*.work/kept/[!s]*.json"))):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)  # as by a power cut
    process.wait()
    before = {p: p.read_bytes() for p in kept}
    samples = [row["samples_ns"] for p in kept for row in json.loads(before[p])["targets"]]
    done = run(device_python, pack, "--json", "out.json", tmp=tmp_path)
    assert done.returncode == 0, done.stderr
    found = DeviceMeasurements.load(there / "out.json")
    assert found.session_count == 2
    [one] = found.measured
    assert one.latency.n == 80
    assert [ns / 1e6 for ns in samples[0]] in one.latency.samples_ms
    assert {p.name for p in there.iterdir()} == {"a.pyz", "out.json"}


def test_what_is_missing_on_the_device_is_one_line(bundle, there, tmp_path, lean):
    pack = write_pack(there / "tiny.pyz", pack_bundle(bundle, FEW))
    done = run(lean(tmp_path / "bare"), pack, tmp=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: this needs numpy: ")
    assert "-m pip install numpy onnxruntime" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_damaged_pack_is_told(bundle, there, tmp_path, device_python):
    data = bytearray(pack_bundle(bundle, FEW))
    at = data.index(b"parcel/bundle/artefacts/fp32.onnx") + 60
    data[at : at + 40] = bytes(40)
    pack = write_pack(there / "tiny.pyz", bytes(data))
    done = run(device_python, pack, tmp=tmp_path)
    assert done.returncode == 1
    assert "is damaged" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_bench_at_a_time_on_a_device(bundle, there, tmp_path, device_python):
    pack = write_pack(there / "tiny.pyz", pack_bundle(bundle, FEW))
    with DeviceLock("fred@lab", folder=tmp_path):
        done = run(device_python, pack, tmp=tmp_path)
    assert done.returncode == EXIT_BUSY
    assert f"started by fred@lab (pid {os.getpid()})" in done.stderr
    assert not list(tmp_path.glob("*.lock"))


def test_a_lock_is_let_go_and_taken_from_our_own_orphan_only(tmp_path):
    with DeviceLock("a", folder=tmp_path):
        for other in (DeviceLock("b", folder=tmp_path), DeviceLock("b", "token", folder=tmp_path)):
            with pytest.raises(UserError, match="started by a"):
                other.__enter__()
    code = (
        "import sys, time; from skd_bench.remote.device_lock import DeviceLock\n"
        "with DeviceLock('orphan', sys.argv[1], folder=sys.argv[2]): print('held', flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", code, "our token", tmp_path]
    orphan = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
    assert orphan.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match="started by orphan"):
        DeviceLock("b", "another token", folder=tmp_path).__enter__()
    assert orphan.poll() is None
    with DeviceLock("b", "our token", folder=tmp_path):
        assert orphan.wait(10) == -signal.SIGKILL
    with DeviceLock("c", folder=tmp_path):  # a file that its dead holder left is no lock
        pass


def test_a_lock_file_cannot_point_elsewhere(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "skd-bench.lock").symlink_to(victim)
    with pytest.raises(UserError, match="cannot open the device's lock"):
        DeviceLock("a", folder=tmp_path).__enter__()
    assert victim.read_text() == "precious"


def test_measurements_survive_json_and_nothing_else_is_taken_for_them(network, tmp_path):
    got = measure_latency([LatencyTarget("a", network(tmp_path / "a.onnx"))], threads=1, processes=2, queries=20)["a"]
    data = {
        "schema": 1,
        "pack": "0" * 12,
        "device": {"cpu": "x"},
        "threads": 1,
        "processes": 2,
        "queries": 20,
        "session_count": 1,
        "measured": [
            {
                "sha256": "f" * 64,
                "runtime": "ort",
                "latency": vars(got)
                | {k: vars(v) if v else None for k, v in (("p50", got.p50), ("p90", got.p90), ("p99", got.p99))},
            }
        ],
    }
    read = DeviceMeasurements.from_json(json.loads(json.dumps(data)), "here")
    assert read.measured[0].latency == got
    assert DeviceMeasurements.load(read.save(tmp_path / "m.json")) == read
    for wrong in ([], {}, data | {"schema": 2}, data | {"x": 1}, data | {"threads": "1"}, data | {"measured": [3]}):
        with pytest.raises(UserError, match="here"):
            DeviceMeasurements.from_json(wrong, "here")
    for content in ("", "[" * 9999, '{"schema": 1e999}', "{}"):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(UserError, match=r"bad\.json"):
            DeviceMeasurements.load(tmp_path / "bad.json")
    with pytest.raises(UserError, match=r"cannot read .*none\.json"):
        DeviceMeasurements.load(tmp_path / "none.json")


def test_two_devices_are_not_compared():
    one = {"cpu": "A", "cores_usable": 4, "governor": "performance", "load": [0.1]}
    check_same_device(one, one | {"load": [3.0], "kernel": "6"}, "it was measured")
    with pytest.raises(UserError, match=r"it was measured on device .*governor: performance and powersave"):
        check_same_device(one, one | {"governor": "powersave"}, "it was measured")
