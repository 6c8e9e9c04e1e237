"""What tests of the whole house share: a clean copy of the tree, and where its files are."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from skd_bench.benchmark.measurements import DeviceMeasurements

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
# A busy machine is no bug: no example is judged by how long it took.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

# One benchmark at a time runs on a device, by a lock in the temporary folder; two processes of tests are two devices.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    _folder = Path(tempfile.gettempdir(), f"skd-{worker}-{os.getuid()}")
    _folder.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(_folder)

# What trains or exports networks, or starts clusters: `make test-fast` leaves these out.
SLOW = (
    "tests/skd_edge/cli/test_run_commands.py",
    "tests/skd_edge/distill/test_distributed.py",
    "tests/skd_edge/distill/test_trainer.py",
    "tests/skd_edge/evaluation/test_candidate_exporter.py",
    "tests/skd_edge/evaluation/test_streaming_export.py",
    "tests/skd_edge/execution/test_local_executor.py",
    "tests/skd_edge/execution/test_parallel_executor.py",
    "tests/skd_edge/execution/test_ray_executor.py",
    "tests/skd_edge/models/test_conformance.py",
    "tests/skd_edge/models/test_streaming.py",
    "tests/skd_edge/models/test_tsm.py",
    "tests/skd_edge/pipeline/",
    "tests/skd_export/graph/",
    "tests/suites/",
    "tests/docs/test_tutorial_page.py",
    "tests/test_readme.py",
)

_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests: by their place, or because they read a run that is trained for the session."""
    for item in items:
        place = item.path.relative_to(ROOT).as_posix()
        if place.startswith(SLOW) or "finished" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def tree() -> list[Path]:
    """Every file that is or would be in the repository, relative to it."""
    words = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, capture_output=True, check=True).stdout if (ROOT / ".git").exists() else b""
    if listed:
        files = [Path(os.fsdecode(name)) for name in listed.split(b"\0") if name]
        return sorted(f for f in files if os.path.lexists(ROOT / f))
    found = (p for top in ROOT.iterdir() if not _LEFT_OUT(str(ROOT), [top.name]) for p in (top, *top.rglob("*")))
    return sorted(
        p.relative_to(ROOT) for p in found if p.is_symlink() or (p.is_file() and "__pycache__" not in p.parts)
    )


@pytest.fixture(scope="session")
def clone(tree, tmp_path_factory) -> Path:
    """A copy of the tree as a clone would be, in a folder with a space in its name."""
    copy = tmp_path_factory.mktemp("clone") / "a clone"
    for file in tree:
        target = copy / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, target, follow_symlinks=False)
    return copy


@pytest.fixture(scope="session")
def film() -> Callable[..., Path]:
    """Writes a real H.264 file of a generated motion: ``film(path, motion="spin_cw", seed=0, frames=8, size=32)``."""
    from skd_edge.data.sources.synthetic import render_clip, write_video

    def _film(path: Path, motion: str = "spin_cw", *, seed: int = 0, frames: int = 8, size: int = 32) -> Path:
        write_video(path, render_clip(motion, frames=frames, size=size, difficulty=0.1, seed=seed))
        return path

    return _film


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """A folder of ``../shared/data``; the test is skipped where it is absent."""

    def _shared(name: str) -> Path:
        if not (SHARED / name).is_dir():
            pytest.skip(f"{SHARED / name} is not on this machine")
        return SHARED / name

    return _shared


# ------------------------------------------------------------------------------------------- what a process leaves
_AUDIT_SOURCE = """\
import os, sys
log = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
def note(event, arguments):
    if event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], (str, bytes)):
        return  # between processes of this machine
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        os.write(log, f"{{event}} {{arguments[1:]}}\\n".encode())
sys.addaudithook(note)
"""


@dataclass(frozen=True)
class ProcessWatch:
    """A home of its own for processes under test, and a list of what they connect to.

    Attributes:
        home: What the processes take for the user's home; empty at first.
        log: Where their Python code notes connections; what a compiled library connects to is not seen.
    """

    home: Path
    log: Path

    @property
    def variables(self) -> dict[str, str]:
        """What to add to a process's environment."""
        return {"HOME": str(self.home), "XDG_CACHE_HOME": str(self.home / ".cache"), "PYTHONPATH": str(self.log.parent)}

    def list_files(self) -> list[str]:
        """The files that the processes left in their home."""
        return sorted(p.relative_to(self.home).as_posix() for p in self.home.rglob("*") if not p.is_dir())

    def list_connections(self) -> list[str]:
        """Every address that the processes connected to or looked up."""
        return self.log.read_text().splitlines()


@pytest.fixture(scope="session")
def process_watch() -> Callable[[Path], ProcessWatch]:
    """Makes a `ProcessWatch` in an empty folder."""

    def make(folder: Path) -> ProcessWatch:
        (folder / "user").mkdir(parents=True)
        (folder / "audit").mkdir()
        log = folder / "audit" / "connections.txt"
        log.touch()
        (folder / "audit" / "sitecustomize.py").write_text(_AUDIT_SOURCE.format(log=str(log)))
        return ProcessWatch(folder / "user", log)

    return make


@pytest.fixture
def tensorrt_double() -> Iterator[Callable[..., None]]:
    """A double of TensorRT and CUDA, here and in the processes that are started; call it with what shall fail."""
    from bench.suites.tensorrt_double.double import environment, installed

    with installed():  # it restores the environment at the end
        yield lambda *faults: os.environ.update(environment(*faults))


@pytest.fixture
def run_there(tmp_path: Path, tensorrt_double: object) -> Callable[..., DeviceMeasurements]:
    """Runs a pack in a process of its own, as a device with the double would; returns what it measured."""
    from skd_bench.benchmark.measurements import DeviceMeasurements

    def run(pack: bytes, name: str = "R") -> DeviceMeasurements:
        there = tmp_path / "there"
        there.mkdir(exist_ok=True)
        (there / "pack.pyz").write_bytes(pack)
        env = {**os.environ, "SKD_EDGE_CACHE": str(there / "cache")}
        words = [sys.executable, "pack.pyz", "--json", f"{name}.json"]
        done = subprocess.run(words, cwd=there, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return DeviceMeasurements.load(there / f"{name}.json")

    return run


@pytest.fixture
def packs_over_ssh(run_there: Callable[..., DeviceMeasurements], monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The packs that were sent to the host, which the double plays."""
    sent = []

    def run_pack(pack: bytes, ssh: object, *, progress: object = None) -> DeviceMeasurements:
        sent.append(pack)
        return run_there(pack)

    monkeypatch.setattr("skd_bench.remote.runner.run_pack", run_pack)
    return sent


# ------------------------------------------------------------------------------------------- a device behind ssh
@dataclass
class SshDevice:
    """A real sshd on loopback that plays the device, with a Python of its own that has numpy and a runtime only.

    Attributes:
        name: What to give as the host.
        python: That Python, in a folder with a space in its name.
        tmp: Its folder for temporary files, with a space too.
        config: The ssh config that finds it; the user's own is not read.
    """

    name: str
    python: Path
    tmp: Path
    config: Path
    server: subprocess.Popen[bytes]

    def cut(self) -> int:
        """Kill the processes that serve connections, as a link that breaks; how many there were."""
        mine = [pid for pid, parent, name in _processes() if parent == self.server.pid and name.startswith("sshd")]
        for pid in mine:
            os.kill(pid, signal.SIGKILL)
        return len(mine)


def _processes() -> Iterator[tuple[int, int, str]]:
    """(pid, parent's pid, name) of every process."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            pid, _, rest = stat.read_text().partition(" (")
            name, _, state = rest.rpartition(") ")
            yield int(pid), int(state.split()[1]), name


def lean_python(home: Path, *packages: str) -> Path:
    """A Python that finds these installed packages, and neither ours nor any other."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    [site] = home.glob("lib/python*/site-packages")
    for package in packages:
        for found in Path(np.__file__).parents[1].glob(f"{package}*"):
            (site / found.name).symlink_to(found)
    return home / "bin" / "python3"


@pytest.fixture(scope="session")
def device_python(tmp_path_factory) -> Path:
    """A device's Python: numpy and onnxruntime, no more."""
    return lean_python(
        tmp_path_factory.mktemp("python") / "on a device", "numpy", "onnxruntime", "flatbuffers", "google"
    )


@pytest.fixture(scope="session")
def _ssh_server(tmp_path_factory, device_python) -> Iterator[SshDevice]:
    server, ssh, keygen = (shutil.which(p, path=f"{os.defpath}:/usr/sbin") for p in ("sshd", "ssh", "ssh-keygen"))
    if not (server and ssh and keygen):
        pytest.skip("no sshd is installed (Debian: openssh-server)")
    home = tmp_path_factory.mktemp("sshd")
    home.chmod(0o700)
    for key in ("host", "mine", "strange"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", home / key], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tmp = home / "its tmp"
    tmp.mkdir()
    (home / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {home}/host\nAuthorizedKeysFile {home}/mine.pub\nPidFile none\n"
        f'StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nSetEnv "TMPDIR={tmp}"\n'
    )
    (home / "known").write_text(f"[127.0.0.1]:{port} {(home / 'host.pub').read_text()}")
    common = f"HostName 127.0.0.1\nIdentitiesOnly yes\nIdentityAgent none\nUserKnownHostsFile {home}/known\n"
    (home / "config").write_text(
        f"Host device\nPort {port}\nIdentityFile {home}/mine\n{common}"
        f"Host refusing\nPort {port}\nIdentityFile {home}/strange\n{common}"
        f"Host unknown\nPort {port}\nIdentityFile {home}/mine\nUserKnownHostsFile /dev/null\n{common}"
        f"Host off\nPort 1\n{common}"
    )
    (home / "bin").mkdir()
    (home / "bin" / "ssh").write_text(f'#!/bin/sh\nexec {ssh} -F {home}/config "$@"\n')
    (home / "bin" / "ssh").chmod(0o755)
    with suppress(OSError):
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd asks for it when root starts it
    process = subprocess.Popen([server, "-D", "-f", home / "sshd_config", "-E", home / "log"])
    device = SshDevice("device", device_python, tmp, home / "config", process)
    try:
        for _ in range(100):
            words = [home / "bin" / "ssh", "-o", "BatchMode=yes", "device", "true"]
            if process.poll() is not None or subprocess.run(words, capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.05)
        else:
            process.kill()
        if process.poll() is not None:
            pytest.skip(f"sshd cannot be used by this user: {(home / 'log').read_text()[-300:]}")
        yield device
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def ssh_device(_ssh_server, monkeypatch) -> SshDevice:
    """A device behind ssh; for this test, `ssh` reads the config that finds it."""
    monkeypatch.setenv("PATH", f"{_ssh_server.config.parent / 'bin'}:{os.environ['PATH']}")
    return _ssh_server


@pytest.fixture(scope="session")
def lean():
    """Makes a Python: see `lean_python`."""
    return lean_python
