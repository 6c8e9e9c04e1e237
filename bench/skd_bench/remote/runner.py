"""Measuring on another machine through the system's ssh, with the user's config, keys and jump hosts.

A pack is copied into a temporary folder of that machine and run with its Python. The result returns on standard output,
and the folder is removed. Files are also copied through ssh and not scp, because small boards often lack the server
part of scp.
"""

from __future__ import annotations

import getpass
import hashlib
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from uuid import uuid4

from skd_bench.benchmark.benchmark import benchmark_bundle
from skd_bench.benchmark.engines.device_job import ScoringClips
from skd_bench.benchmark.latency import LatencyResult, LatencyTarget, MeasurementSettings, ProgressCallback
from skd_bench.benchmark.measurements import DeviceMeasurements
from skd_bench.benchmark.request import BenchmarkRequest
from skd_bench.benchmark.results import BenchmarkResult
from skd_bench.errors import UsageError, UserError
from skd_bench.files import sha256_file
from skd_bench.remote.device_lock import EXIT_BUSY
from skd_bench.remote.pack import pack_bundle, pack_files, write_pack
from skd_bench.remote.pack_main import LINE_PREFIX
from skd_bench.remote.ssh import LinkLost, SshLink, check_host
from skd_bench.runtimes.base import CompileOptions
from skd_bench.text_tables import format_benchmark_table
from skd_bench.untrusted.json_file import parse_json

_WAITS_S = (1.0, 3.0, 10.0, 30.0, 60.0)  # long enough for a board to restart
_PYTHON = re.compile(r"[A-Za-z0-9_./~+][A-Za-z0-9_./~+ -]*")

# $1: the pack's hash, $2: the Python. The folder of an earlier run is used again if it is owned by this user.
_PREPARE = f"""
case $2 in "~/"*) python=$HOME/${{2#"~/"}};; *) python=$2;; esac
python=$(command -v "$python") || {{ echo "{LINE_PREFIX} no-python"; exit 0; }}
echo "{LINE_PREFIX} python $python"
for old in "${{TMPDIR:-/tmp}}/skd-bench-$1".*; do
  if [ -d "$old" ] && [ -O "$old" ] && [ ! -L "$old" ]; then folder=$old; fi
done
[ -n "$folder" ] || folder=$(mktemp -d "${{TMPDIR:-/tmp}}/skd-bench-$1.XXXXXX") || exit 1
echo "{LINE_PREFIX} folder $folder"
if [ -f "$folder/pack.pyz" ]; then echo "{LINE_PREFIX} packed"; fi
"""
# $1: the folder, $2: the pack's size. The size is checked because cat cannot notice that a lost connection ended its
# input early.
_SEND = """
cat > "$1/pack.part" || exit 1
[ "$(wc -c < "$1/pack.part")" -eq "$2" ] || exit 255
mv "$1/pack.part" "$1/pack.pyz"
"""
_RUN = 'folder=$1 python=$2; shift 2; "$python" "$folder/pack.pyz" --tether "$@"; exit $?'
_REMOVE = 'rm -rf -- "$1"'


@dataclass(frozen=True)
class SshTarget:
    """The machine that a pack runs on.

    Attributes:
        host: The machine's name for ssh (see `check_host`).
        python: The Python on that machine: a name in its PATH, or a path.
        keep: Whether to keep the temporary folder there.
    """

    host: str
    python: str = "python3"
    keep: bool = False


def run_pack(pack: bytes, ssh: SshTarget, *, progress: ProgressCallback | None = None) -> DeviceMeasurements:
    """Run a pack on another machine; after a lost connection, connect again and continue the run.

    Args:
        pack: The bytes from `pack_bundle` or `pack_files`.
        ssh: The machine.
        progress: Called with (processes finished, all processes).

    Returns:
        The measurements.

    Raises:
        UsageError: The host or the Python contains characters that are not allowed.
        UserError: The machine cannot be reached, lacks a package, is in use, or the connection was lost for too long.
    """
    if not _PYTHON.fullmatch(ssh.python):
        raise UsageError(
            f"the device's Python cannot be {ssh.python!r}; give a name or a path, such as python3 or ~/venv/bin/python"
        )
    return _RemoteRun(SshLink(ssh.host), ssh.python, pack, progress).run(ssh.keep)


def run_benchmark(
    request: BenchmarkRequest,
    *,
    ssh: SshTarget | None = None,
    pack: Path | None = None,
    progress: ProgressCallback | None = None,
) -> BenchmarkResult | None:
    """Measure a bundle on this machine or on another one, or write a pack.

    Args:
        request: What to measure; engines are only possible on this machine.
        ssh: The other machine; None: this machine.
        pack: The file to write a pack to, instead of measuring.
        progress: Called with (processes finished, all processes).

    Returns:
        The result of `benchmark_bundle`, with `host` for another machine; None where a pack was written.

    Raises:
        UsageError: Both a machine and a pack are given, one of them is not allowed, or engines are given with one of
            them.
        UserError: See `benchmark_bundle` and `run_pack`.
    """
    if ssh and pack:
        raise UsageError("--host measures on that machine now and --pack writes a file to run later; give one of them")
    if ssh is None and pack is None:
        return benchmark_bundle(request, progress=progress)
    if request.engines:
        raise UsageError(
            "an engine runs only on the kind of GPU and the version that it was built for; "
            "build it on the device and run bench --engine there"
        )
    if ssh is not None:
        check_host(ssh.host)
    data = pack_bundle(request.bundle, request.settings, request.extra)
    if ssh is None:
        if pack is not None:
            write_pack(pack, data, outside=request.bundle)
        return None
    measurements = run_pack(data, ssh, progress=progress)
    if measurements.bench is None:
        raise UserError(f"the result from {ssh.host} does not contain the benchmark of a bundle; measure again")
    check_benchmark(measurements.bench, ssh.host)
    return {**measurements.bench, "bundle": str(request.bundle), "host": ssh.host}


def check_benchmark(bench: BenchmarkResult, host: str) -> None:
    """Refuse a result that is not one: whatever a machine sends is shown and stored only if it can be.

    Raises:
        UserError: The result has another form.
    """
    try:
        format_benchmark_table(bench)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise UserError(
            f"the result from {host} is not that of a benchmark ({type(error).__name__}: {error}); install the same "
            "version of skd-edge there, and measure again"
        ) from error


def measure_remote_latency(
    targets: Sequence[LatencyTarget],
    ssh: SshTarget,
    settings: MeasurementSettings,
    *,
    build: CompileOptions | None = None,
    clips: ScoringClips | None = None,
    latency: bool = True,
    progress: ProgressCallback | None = None,
) -> tuple[dict[str, LatencyResult], DeviceMeasurements]:
    """Measure the latency of targets on another machine, and compute logits of those on its GPU.

    Args:
        targets: See `skd_bench.benchmark.latency.measure_latency`; a runtime may be one that compiles.
        ssh: The machine.
        settings: Threads, processes, queries and energy.
        build: See `pack_files`.
        clips: See `pack_files`.
        latency: See `pack_files`.
        progress: Called with (processes finished, all processes).

    Returns:
        The latency of each target by its name (targets that cannot run there are missing), and all that was measured.

    Raises:
        UsageError: See `run_pack`.
        UserError: See `run_pack`.
    """
    pack = pack_files(targets, settings, build=build, clips=clips, latency=latency)
    measurements = run_pack(pack, ssh, progress=progress)
    by_file = {(m.sha256, m.runtime): m.latency for m in measurements.measured}
    found = {t.name: by_file.get((sha256_file(t.path), t.runtime)) for t in targets}
    return {name: replace(one, name=name) for name, one in found.items() if one is not None}, measurements


class _RemoteRun:
    """The run of one pack on one machine, over one connection after another."""

    def __init__(self, link: SshLink, python: str, pack: bytes, progress: ProgressCallback | None) -> None:
        self.link, self.host, self.python, self.pack, self.on_progress = link, link.host, python, pack, progress
        self.pack_hash = hashlib.sha256(pack).hexdigest()[:12]
        self.token = uuid4().hex
        self.folder, self.created_folder, self.done, self.lost_count = "", False, (0, 0), 0

    def run(self, keep: bool) -> DeviceMeasurements:
        while True:
            try:
                measurements = self._run_once()
                break
            except LinkLost as lost:
                self._wait_or_give_up(lost)
            except UserError as error:
                if self.created_folder or error.exit_code != EXIT_BUSY:  # else the running benchmark uses this folder
                    self._remove_folder()
                raise
        if not keep:
            self._remove_folder()
        return measurements

    def _run_once(self) -> DeviceMeasurements:
        packed = self._prepare_folder()
        if not packed:
            self._send_pack()
        return self._run_pack()

    def _wait_or_give_up(self, lost: LinkLost) -> None:
        if not self.folder:
            raise UserError(self.link.explain_failure(lost)) from lost
        if self.lost_count == len(_WAITS_S):
            done, total = self.done
            raise UserError(
                f"the connection to {self.host} was lost and could not be restored ({lost}); {done} of {total or '?'} "
                f"measuring processes have finished, and {self.folder} there contains their results: "
                "run the same command to continue"
            )
        time.sleep(_WAITS_S[self.lost_count])
        self.lost_count += 1

    def _prepare_folder(self) -> bool:
        """Find or make the folder there; return whether it already contains the pack."""
        replies: dict[str, str] = {}
        for line in self.link.run(_PREPARE, self.pack_hash, self.python).splitlines():
            word, _, rest = line.removeprefix(f"{LINE_PREFIX} ").partition(" ")
            replies |= {word: rest} if line.startswith(f"{LINE_PREFIX} ") else {}
        if "no-python" in replies:
            raise UserError(
                f"{self.python} was not found on {self.host}; install Python 3.10 or newer with numpy and onnxruntime "
                "there (python3 -m pip install numpy onnxruntime), or give another Python with --python"
            )
        folder = replies.get("folder", "")
        is_own = re.fullmatch(rf"skd-bench-{self.pack_hash}\.\w+", PurePosixPath(folder).name)
        if not is_own or not replies.get("python"):
            raise UserError(f"{self.host} did not report a temporary folder; its shell must be a POSIX shell")
        self.python = replies["python"]
        self.created_folder |= "packed" not in replies
        self.folder = folder
        return "packed" in replies

    def _send_pack(self) -> None:
        self.link.run(_SEND, self.folder, str(len(self.pack)), data=self.pack)

    def _run_pack(self) -> DeviceMeasurements:
        results: list[str] = []

        def handle_line(text: str) -> None:
            if text.startswith(begin := f"{LINE_PREFIX} progress "):
                self._update_progress(text.removeprefix(begin))
            elif text.startswith(begin := f"{LINE_PREFIX} result "):
                results.append(text.removeprefix(begin))

        owner = f"{getpass.getuser()}@{socket.gethostname()}"
        self.link.stream_output(handle_line, _RUN, self.folder, self.python, "--who", owner, "--token", self.token)
        try:
            return DeviceMeasurements.from_json(parse_json(results[-1]), f"the result from {self.host}")
        except (IndexError, ValueError) as error:
            if results and results[-1].endswith("\n"):  # a whole line: sending it again would not help
                raise UserError(f"the result from {self.host} is not valid JSON: {error}; check its Python") from error
            raise LinkLost(f"the result is incomplete ({error})") from error

    def _update_progress(self, text: str) -> None:
        numbers = [int(word) for word in text.split() if word.isdecimal()]
        if len(numbers) == 2:
            self.lost_count = 0 if numbers[0] > self.done[0] else self.lost_count
            self.done = (numbers[0], numbers[1])
            if self.on_progress:
                self.on_progress(*self.done)

    def _remove_folder(self) -> None:
        if self.folder:
            try:
                self.link.run(_REMOVE, self.folder)
            except (LinkLost, UserError) as error:
                raise UserError(f"cannot remove {self.folder} on {self.host}: {error}; remove it by hand") from error
