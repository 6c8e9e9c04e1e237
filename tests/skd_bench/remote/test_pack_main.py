"""The main program of a pack on a device: interrupted runs, damaged packs and the device's lock."""

import json
import os
import signal
import subprocess
import sys
import time

from skd_bench.benchmark.latency import LatencyTarget, MeasurementSettings
from skd_bench.benchmark.measurements import DeviceMeasurements
from skd_bench.remote.device_lock import EXIT_BUSY, DeviceLock
from skd_bench.remote.pack import pack_bundle, pack_files, write_pack

FEW = MeasurementSettings(threads=1, processes=2, queries=20)


def test_an_interrupted_run_continues(network, there, tmp_path, device_python, run_pack_file):
    targets = [LatencyTarget("a", network(tmp_path / "a.onnx"))]
    pack = write_pack(there / "a.pyz", pack_files(targets, MeasurementSettings(1, 4, 20)))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([device_python, pack], cwd=there, env=environment, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (kept := list(there.glob("*.work/kept/[!s]*.json"))):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)  # like a power failure
    process.wait()
    before = {p: p.read_bytes() for p in kept}
    samples = [row["samples_ns"] for p in kept for row in json.loads(before[p])["targets"]]
    done = run_pack_file(device_python, pack, "--json", "out.json", tmp=tmp_path)
    assert done.returncode == 0, done.stderr
    found = DeviceMeasurements.load(there / "out.json")
    assert found.session_count == 2
    [one] = found.measured
    assert one.latency.n == 80
    assert [ns / 1e6 for ns in samples[0]] in one.latency.samples_ms
    assert {p.name for p in there.iterdir()} == {"a.pyz", "out.json"}


def test_a_damaged_pack_is_reported(bundle, there, tmp_path, device_python, run_pack_file):
    data = bytearray(pack_bundle(bundle, FEW))
    at = data.index(b"parcel/bundle/artefacts/fp32.onnx") + 60
    data[at : at + 40] = bytes(40)
    pack = write_pack(there / "tiny.pyz", bytes(data))
    done = run_pack_file(device_python, pack, tmp=tmp_path)
    assert done.returncode == 1
    assert "is damaged" in done.stderr
    assert "Traceback" not in done.stderr


def test_only_one_benchmark_runs_on_a_device(bundle, there, tmp_path, device_python, run_pack_file):
    pack = write_pack(there / "tiny.pyz", pack_bundle(bundle, FEW))
    with DeviceLock("fred@lab", folder=tmp_path):
        done = run_pack_file(device_python, pack, tmp=tmp_path)
    assert done.returncode == EXIT_BUSY
    assert f"started by fred@lab (pid {os.getpid()})" in done.stderr
    assert not list(tmp_path.glob("*.lock"))


# What Windows does not have, in every Python process that starts with this.
WITHOUT_POSIX = """
import ctypes, os, signal, sys
for module in ("fcntl", "pwd", "grp", "resource", "termios"):
    sys.modules[module] = None
for name in ("getuid", "geteuid", "killpg", "getpgid", "getpgrp", "fchmod", "sysconf", "sched_getaffinity",
             "getloadavg", "O_NOFOLLOW", "O_CLOEXEC"):  # shutil needs O_NONBLOCK on POSIX from Python 3.13 on
    delattr(os, name)
for name in ("SIGKILL", "SIGHUP"):
    delattr(signal, name)
real = ctypes.CDLL
def named(name, *arguments, **options):
    if name is None:
        raise TypeError("bad argument type for built-in operation")
    return real(name, *arguments, **options)
ctypes.CDLL = named
"""


def test_a_pack_measures_without_what_is_posix_only(network, there, tmp_path):
    """Windows has none of it. This Python runs the pack, because it is the only one with a runtime for sure."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_POSIX)
    targets = [LatencyTarget("a", network(tmp_path / "a.onnx"))]
    pack = write_pack(there / "a.pyz", pack_files(targets, MeasurementSettings(1, 1, 20)))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path), "LOGNAME": "fred"}
    environment["SKD_EDGE_CACHE"] = str(tmp_path / "cache")
    probe = "import sys; sys.exit(sys.modules['fcntl'] is not None)"
    assert subprocess.run([sys.executable, "-c", probe], env=environment, check=False).returncode == 0
    command = [sys.executable, pack, "--json", "out.json"]
    done = subprocess.run(command, cwd=there, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "note: this system has no file locks; take care that no other benchmark runs at the same time"
    ]
    assert DeviceMeasurements.load(there / "out.json").measured[0].latency.n == 20
