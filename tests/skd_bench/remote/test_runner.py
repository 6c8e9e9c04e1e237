"""Measuring on another machine, against a real sshd on loopback."""

import os
import subprocess

import pytest

from skd_bench.benchmark.latency import LatencyTarget
from skd_bench.device.energy.meter import open_energy_meter
from skd_bench.errors import UsageError, UserError
from skd_bench.remote import runner as remote
from skd_bench.remote.device_lock import EXIT_BUSY, DeviceLock
from skd_bench.remote.pack import MeasurementSettings, pack_bundle
from skd_bench.remote.ssh import LinkLost, SshLink, check_host

FEW = MeasurementSettings(threads=1, processes=2, queries=20)


def tries(device, pack, **options):
    return remote.run_pack(pack, device.name, python=str(device.python), **options)


def test_a_bundle_is_measured_there_and_nothing_stays(ssh_device, bundle_with_samples, monkeypatch):
    chatter = "echo Welcome; echo skd-bench; echo skd-bench progress x;"  # what a login may print
    monkeypatch.setattr(remote, "_RUN", chatter + remote._RUN)
    steps = []
    result = remote.run_benchmark(
        bundle_with_samples,
        host="device",
        python=str(ssh_device.python),
        progress=lambda *s: steps.append(s),
        **vars(FEW),
    )
    [row] = result["artefacts"]
    assert row["file"] == "artefacts/fp32.onnx"
    assert row["latency"]["n"] == 40
    assert (result["host"], result["bundle"]) == ("device", str(bundle_with_samples))
    assert result["clips"] is None
    assert "av is not installed" in result["notes"][-1]
    assert steps == [(i, 3) for i in range(4)]
    assert list(ssh_device.tmp.iterdir()) == []


def test_files_are_measured_there_as_they_are_here(ssh_device, tmp_path, network):
    one = network(tmp_path / "one file.onnx")
    targets = [
        LatencyTarget("one", one),
        LatencyTarget("same bytes", one),
        LatencyTarget("two", network(tmp_path / "2.onnx", bias=1.0)),
    ]
    got, card = remote.measure_remote_latency(targets, host="device", python=str(ssh_device.python), **vars(FEW))
    assert [(name, latency.name, latency.n) for name, latency in got.items()] == [(t.name, t.name, 40) for t in targets]
    assert got["one"].samples_ms == got["same bytes"].samples_ms != got["two"].samples_ms
    assert got["one"].p50.low <= got["one"].p50.value
    assert card["runtimes"]["ort"]
    assert list(ssh_device.tmp.iterdir()) == []


def test_a_device_without_the_runtime_or_a_meter_says_so(ssh_device, tmp_path, network):
    path = network(tmp_path / "a.onnx")
    how = {"host": "device", "python": str(ssh_device.python), **vars(FEW)}
    with pytest.raises(UserError, match=r"openvino is not installed; pip install 'skd-edge\[openvino\]'"):
        remote.measure_remote_latency(
            [LatencyTarget("a", path), LatencyTarget("a on openvino", path, "openvino")], **how
        )
    if isinstance(open_energy_meter(), str):
        with pytest.raises(UserError, match="joules: not measurable here: "):
            remote.measure_remote_latency([LatencyTarget("a", path)], **how | {"energy": True})
    else:
        assert remote.measure_remote_latency([LatencyTarget("a", path)], **how | {"energy": True})[0]["a"].joules
    assert list(ssh_device.tmp.iterdir()) == []


def test_a_link_cut_in_the_middle_is_made_anew(ssh_device, bundle, monkeypatch):
    monkeypatch.setattr(remote, "_WAITS_S", (0.1, 0.1))
    kept = {}

    def cut_once(done, total):
        if done == 2 and not kept:
            kept.update((p, p.read_bytes()) for p in ssh_device.tmp.glob("*/*.work/kept/*.json"))
            assert ssh_device.cut() == 1

    found = tries(ssh_device, pack_bundle(bundle, FEW), keep=True, progress=cut_once)
    measured = [p for p in kept if p.name != "sessions.json"]
    assert len(measured) == 2
    assert all(p.read_bytes() == kept[p] for p in measured)  # measured once: nanoseconds do not repeat
    assert found.session_count == 2
    assert "2 sessions" in found.bench["notes"][-1]
    assert [m.latency.n for m in found.measured] == [40, 40]
    [folder] = ssh_device.tmp.iterdir()
    SshLink("device").run('rm -r "$1"', str(folder))


def test_a_link_that_stays_lost_leaves_what_was_measured(ssh_device, bundle, monkeypatch):
    monkeypatch.setattr(remote, "_WAITS_S", (0.05,))
    config, pack = ssh_device.config.read_text(), pack_bundle(bundle, FEW)

    def cut(done, total):
        if done == 1:
            ssh_device.config.write_text(config.replace("Port ", "Port 1 # "))
            assert ssh_device.cut() == 1

    try:
        with pytest.raises(UserError, match=r"link to device was lost.*refused.*1 of 4 .* are kept there in .*tmp"):
            tries(ssh_device, pack, progress=cut)
    finally:
        ssh_device.config.write_text(config)
    [before] = ssh_device.tmp.glob("*/*.work/kept/[!s]*.json")
    contents = [before.read_bytes()]
    found = tries(ssh_device, pack, progress=lambda *_: contents.append(before.read_bytes()))
    assert found.session_count == 2
    assert len(set(contents)) == 1
    assert list(ssh_device.tmp.iterdir()) == []


def test_a_pack_that_arrived_in_part_is_no_pack(ssh_device, tmp_path):
    with pytest.raises(LinkLost):
        SshLink("device").run(remote._SEND, str(tmp_path), "1000", data=b"half")
    assert not (tmp_path / "pack.pyz").exists()
    SshLink("device").run(remote._SEND, str(tmp_path), "4", data=b"half")
    assert (tmp_path / "pack.pyz").read_bytes() == b"half"


def test_a_second_bench_is_told_who_is_first(ssh_device, bundle):
    pack = pack_bundle(bundle, FEW)
    with (
        DeviceLock("fred@lab\n\x1b[31m", folder=ssh_device.tmp),
        pytest.raises(
            UserError, match=rf"another bench runs on this device, started by fred@lab.*pid {os.getpid()}"
        ) as e,
    ):
        tries(ssh_device, pack)
    assert e.value.exit_code == EXIT_BUSY
    assert "\x1b" not in str(e.value)
    assert list(ssh_device.tmp.iterdir()) == []


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("refusing", r"cannot reach refusing: .*Permission denied.*ssh-copy-id refusing"),
        ("unknown", r"cannot reach unknown: Host key verification failed.*by hand \(ssh unknown\)"),
        ("off", r"cannot reach off: .*Connection refused.*is it on"),
        ("no-such-host.invalid", r"cannot reach no-such-host\.invalid: .*resolve.*check the name"),
    ],
)
def test_who_cannot_be_reached_is_told_with_what_to_try(ssh_device, host, message):
    with pytest.raises(UserError, match=message):
        remote.run_pack(b"", host)


def test_what_the_device_lacks_is_told_with_the_pip_line(ssh_device, bundle, tmp_path, lean):
    pack = pack_bundle(bundle, FEW)
    with pytest.raises(UserError, match=r"device has no python9;.*pip install numpy onnxruntime.*--python"):
        remote.run_pack(pack, "device", python="python9")
    with pytest.raises(UserError, match=r"device: .*onnxruntime is not installed; pip install"):
        remote.run_pack(pack, "device", python=str(lean(tmp_path / "half", "numpy")))
    with pytest.raises(UsageError, match="device's Python is '-c'"):
        remote.run_pack(pack, "device", python="-c")
    assert list(ssh_device.tmp.iterdir()) == []


def test_a_full_disk_is_told(ssh_device, bundle):
    words = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", ssh_device.tmp]
    if os.getuid() != 0 or subprocess.run(words, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a file system")
    try:
        with pytest.raises(UserError, match=r"device: its disk is full \(.*No space left on device\)"):
            tries(ssh_device, pack_bundle(bundle, FEW))
        assert list(ssh_device.tmp.iterdir()) == []
    finally:
        subprocess.run(["umount", ssh_device.tmp], check=True)


HOSTILE = [
    "",
    "-oProxyCommand=touch x",
    "--",
    "me@-oProxyCommand=x",
    "@device",
    "me@",
    "a b",
    "a;b",
    "a\nb",
    "a\n",
    "$(id)",
    "`id`",
    "a'b",
    'a"b',
    "a|b",
    "ssh://device",
    "device:22",
    "a/b",
    "%h",
    "ünï",
    "a\\b",
    "~",
]


@pytest.mark.parametrize("host", HOSTILE)
def test_a_host_can_be_nothing_but_a_host(host, monkeypatch, bundle):
    monkeypatch.setattr(subprocess, "Popen", None)  # nothing is started
    with pytest.raises(UsageError, match=r"the host is|give one of them"):
        remote.run_benchmark(bundle, host=host)


@pytest.mark.parametrize("host", ["device", "me@device", "10.0.0.7", "me.x@d-1.example.org", "fe80::1%eth0", "u@::1"])
def test_hosts_as_ssh_takes_them(host):
    assert check_host(host) == host


def test_words_stay_words_on_the_way(ssh_device):
    nasty = ["a b", "$(touch x)", "'; exit 3; '", "*", "\\", "-n", "ü", ""]
    assert SshLink("device").run('printf "%s|" "$@"', *nasty) == "|".join([*nasty, ""])


def test_a_hostile_answer_is_no_path(ssh_device, bundle, monkeypatch):
    """A device that names another folder than a fresh one of ours must not make us remove it."""
    monkeypatch.setattr(
        remote, "_PREPARE", f'echo "{remote.LINE_PREFIX} python python3"; echo "{remote.LINE_PREFIX} folder /"'
    )
    with pytest.raises(UserError, match="did not say where its temporary folder is"):
        tries(ssh_device, pack_bundle(bundle, FEW))
