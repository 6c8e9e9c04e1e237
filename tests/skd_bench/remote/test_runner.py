"""Measuring on another machine: a real sshd on the loopback interface."""

import os
import subprocess
from dataclasses import replace

import pytest

from skd_bench.benchmark.latency import LatencyTarget, MeasurementSettings
from skd_bench.benchmark.request import BenchmarkRequest
from skd_bench.device.energy.meter import open_energy_meter
from skd_bench.errors import UsageError, UserError
from skd_bench.remote import runner as remote
from skd_bench.remote.device_lock import EXIT_BUSY, DeviceLock
from skd_bench.remote.pack import pack_bundle
from skd_bench.remote.ssh import LinkLost, SshLink

FEW = MeasurementSettings(threads=1, processes=2, queries=20)


def run_on(device, pack, *, keep=False, progress=None):
    return remote.run_pack(pack, remote.SshTarget(device.name, str(device.python), keep), progress=progress)


def test_a_bundle_is_measured_remotely_and_no_file_remains(ssh_device, bundle_with_samples, monkeypatch):
    login_output = "echo Welcome; echo skd-bench; echo skd-bench progress x;"  # a login may print this
    monkeypatch.setattr(remote, "_RUN", login_output + remote._RUN)
    steps = []
    result = remote.run_benchmark(
        BenchmarkRequest(bundle_with_samples, FEW),
        ssh=remote.SshTarget("device", str(ssh_device.python)),
        progress=lambda *s: steps.append(s),
    )
    [row] = result["artefacts"]
    assert row["file"] == "artefacts/fp32.onnx"
    assert row["latency"]["n"] == 40
    assert (result["host"], result["bundle"]) == ("device", str(bundle_with_samples))
    assert result["clips"] is None
    assert "av is not installed" in result["notes"][-1]
    assert steps == [(i, 3) for i in range(4)]
    assert list(ssh_device.tmp.iterdir()) == []


def test_files_are_measured_remotely(ssh_device, tmp_path, network):
    one = network(tmp_path / "one file.onnx")
    targets = [
        LatencyTarget("one", one),
        LatencyTarget("same bytes", one),
        LatencyTarget("two", network(tmp_path / "2.onnx", bias=1.0)),
    ]
    got, measured = remote.measure_remote_latency(targets, remote.SshTarget("device", str(ssh_device.python)), FEW)
    assert [(name, latency.name, latency.n) for name, latency in got.items()] == [(t.name, t.name, 40) for t in targets]
    assert got["one"].samples_ms == got["same bytes"].samples_ms != got["two"].samples_ms
    assert got["one"].p50.low <= got["one"].p50.value
    assert measured.device["runtimes"]["ort"]
    assert list(ssh_device.tmp.iterdir()) == []


def test_a_missing_runtime_or_energy_meter_of_a_device_is_reported(ssh_device, tmp_path, network):
    path = network(tmp_path / "a.onnx")
    ssh, with_energy = remote.SshTarget("device", str(ssh_device.python)), replace(FEW, energy=True)
    both = [LatencyTarget("a", path), LatencyTarget("a on openvino", path, "openvino")]
    found, measurements = remote.measure_remote_latency(both, ssh, FEW)
    assert list(found) == ["a"]
    (note,) = [note for note in measurements.notes if note.refused]
    assert note.runtime == "openvino"
    assert "openvino is not installed; pip install 'skd-edge[openvino]'" in note.refused
    if isinstance(open_energy_meter(), str):
        with pytest.raises(UserError, match="energy: not measurable here: "):
            remote.measure_remote_latency([LatencyTarget("a", path)], ssh, with_energy)
    else:
        assert remote.measure_remote_latency([LatencyTarget("a", path)], ssh, with_energy)[0]["a"].joules
    assert list(ssh_device.tmp.iterdir()) == []


def test_a_lost_connection_is_restored_and_the_run_continues(ssh_device, bundle, monkeypatch):
    monkeypatch.setattr(remote, "_WAITS_S", (0.1, 0.1))
    kept = {}

    def cut_once(done, total):
        if done == 2 and not kept:
            kept.update((p, p.read_bytes()) for p in ssh_device.tmp.glob("*/*.work/kept/*.json"))
            assert ssh_device.cut() == 1

    found = run_on(ssh_device, pack_bundle(bundle, FEW), keep=True, progress=cut_once)
    measured = [p for p in kept if p.name != "sessions.json"]
    assert len(measured) == 2
    assert all(
        p.read_bytes() == kept[p] for p in measured
    )  # they were not measured again: equal nanoseconds are not a coincidence
    assert found.session_count == 2
    assert "2 sessions" in found.bench["notes"][-1]
    assert [m.latency.n for m in found.measured] == [40, 40]
    [folder] = ssh_device.tmp.iterdir()
    SshLink("device").run('rm -r "$1"', str(folder))


def test_results_remain_where_the_connection_stays_lost(ssh_device, bundle, monkeypatch):
    monkeypatch.setattr(remote, "_WAITS_S", (0.05,))
    config, pack = ssh_device.config.read_text(), pack_bundle(bundle, FEW)

    def cut(done, total):
        if done == 1:
            ssh_device.config.write_text(config.replace("Port ", "Port 1 # "))
            assert ssh_device.cut() == 1

    try:
        with pytest.raises(
            UserError, match=r"connection to device was lost.*refused.*1 of 4 .* have finished, and .*tmp"
        ):
            run_on(ssh_device, pack, progress=cut)
    finally:
        ssh_device.config.write_text(config)
    [before] = ssh_device.tmp.glob("*/*.work/kept/[!s]*.json")
    contents = [before.read_bytes()]
    found = run_on(ssh_device, pack, progress=lambda *_: contents.append(before.read_bytes()))
    assert found.session_count == 2
    assert len(set(contents)) == 1
    assert list(ssh_device.tmp.iterdir()) == []


def test_a_partly_copied_pack_is_not_used(ssh_device, tmp_path):
    with pytest.raises(LinkLost):
        SshLink("device").run(remote._SEND, str(tmp_path), "1000", data=b"half")
    assert not (tmp_path / "pack.pyz").exists()
    SshLink("device").run(remote._SEND, str(tmp_path), "4", data=b"half")
    assert (tmp_path / "pack.pyz").read_bytes() == b"half"


def test_a_second_benchmark_is_refused_with_the_owner_of_the_first(ssh_device, bundle):
    pack = pack_bundle(bundle, FEW)
    with (
        DeviceLock("fred@lab\n\x1b[31m", folder=ssh_device.tmp),
        pytest.raises(
            UserError, match=rf"another benchmark runs on this device, started by fred@lab.*pid {os.getpid()}"
        ) as e,
    ):
        run_on(ssh_device, pack)
    assert e.value.exit_code == EXIT_BUSY
    assert "\x1b" not in str(e.value)
    assert list(ssh_device.tmp.iterdir()) == []


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("refusing", r"cannot reach refusing: .*Permission denied.*ssh-copy-id refusing"),
        ("unknown", r"cannot reach unknown: Host key verification failed.*by hand \(ssh unknown\)"),
        ("off", r"cannot reach off: .*Connection refused.*check that it is on"),
        ("no-such-host.invalid", r"cannot reach no-such-host\.invalid: .*resolve.*check the name"),
    ],
)
def test_an_unreachable_host_is_reported_with_what_to_try(ssh_device, host, message):
    with pytest.raises(UserError, match=message):
        remote.run_pack(b"", remote.SshTarget(host))


def test_a_missing_package_of_a_device_is_reported_with_the_pip_command(ssh_device, bundle, tmp_path, lean):
    pack = pack_bundle(bundle, FEW)
    with pytest.raises(UserError, match=r"python9 was not found on device;.*pip install numpy onnxruntime.*--python"):
        remote.run_pack(pack, remote.SshTarget("device", "python9"))
    with pytest.raises(UserError, match=r"device: .*onnxruntime is not installed; pip install"):
        remote.run_pack(pack, remote.SshTarget("device", str(lean(tmp_path / "half", "numpy"))))
    with pytest.raises(UsageError, match="device's Python cannot be '-c'"):
        remote.run_pack(pack, remote.SshTarget("device", "-c"))
    assert list(ssh_device.tmp.iterdir()) == []


def test_a_full_disk_is_reported(ssh_device, bundle):
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", ssh_device.tmp]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a file system")
    try:
        with pytest.raises(UserError, match=r"device: its disk is full \(.*No space left on device\)"):
            run_on(ssh_device, pack_bundle(bundle, FEW))
        assert list(ssh_device.tmp.iterdir()) == []
    finally:
        subprocess.run(["umount", ssh_device.tmp], check=True)


def test_a_hostile_answer_is_not_used_as_a_path(ssh_device, bundle, monkeypatch):
    """A folder that is not a new one of a run must not be removed, whatever the device answers."""
    monkeypatch.setattr(
        remote, "_PREPARE", f'echo "{remote.LINE_PREFIX} python python3"; echo "{remote.LINE_PREFIX} folder /"'
    )
    with pytest.raises(UserError, match="did not report a temporary folder"):
        run_on(ssh_device, pack_bundle(bundle, FEW))
