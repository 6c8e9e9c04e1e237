"""Measuring on another machine, through the system's own ssh: the user's config, keys and jump hosts apply.

A pack is copied into a temporary folder there and run with that machine's Python. What it found comes back on its
output; the folder is removed. Files go through ssh as well, not scp: small boards often lack what scp needs there, and
one program has one way of quoting.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from skd_bench.benchmark.benchmark import benchmark_bundle
from skd_bench.benchmark.latency import LatencyResult, LatencyTarget, ProgressCallback
from skd_bench.benchmark.measurements import DeviceMeasurements
from skd_bench.benchmark.scenarios import LoadScenarios
from skd_bench.errors import UsageError, UserError
from skd_bench.files import sha256_file
from skd_bench.remote.device_lock import EXIT_BUSY
from skd_bench.remote.pack import MeasurementSettings, pack_bundle, pack_files, write_pack
from skd_bench.remote.pack_main import LINE_PREFIX
from skd_bench.remote.ssh import LinkLost, SshLink, check_host

_WAITS_S = (1.0, 3.0, 10.0, 30.0, 60.0)  # a board has started anew by then
_PYTHON = re.compile(r"[A-Za-z0-9_./~+][A-Za-z0-9_./~+ -]*")

# $1 the pack's hash, $2 Python. A folder that an earlier run left is gone on with, if it is ours.
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
# $1 the folder, $2 the pack's bytes: a link that is cut ends the input early, and cat cannot know.
_SEND = """
cat > "$1/pack.part" || exit 1
[ "$(wc -c < "$1/pack.part")" -eq "$2" ] || exit 255
mv "$1/pack.part" "$1/pack.pyz"
"""
_RUN = 'folder=$1 python=$2; shift 2; "$python" "$folder/pack.pyz" --tether "$@"; exit $?'
_REMOVE = 'rm -rf -- "$1"'


def run_pack(
    pack: bytes, host: str, *, python: str = "python3", keep: bool = False, progress: ProgressCallback | None = None
) -> DeviceMeasurements:
    """Run a pack on another machine; a link that is cut is made anew, and the run goes on where it was.

    Args:
        pack: See `pack.pack_bundle`.
        host: As ssh takes it.
        python: The Python there: a name in its PATH, or a path.
        keep: Leave the folder there.
        progress: Called with (processes done, processes in all).

    Raises:
        UsageError: The host or the Python could be read as something else.
        UserError: The machine cannot be reached, lacks something, is in use, or the link stayed lost.
    """
    if not _PYTHON.fullmatch(python):
        raise UsageError(f"the device's Python is {python!r}; give its name or path, e.g. python3 or ~/venv/bin/python")
    return _RemoteRun(SshLink(host), python, pack, progress).run(keep)


def run_benchmark(
    bundle: Path,
    *,
    host: str | None = None,
    pack: Path | None = None,
    python: str = "python3",
    keep: bool = False,
    progress: ProgressCallback | None = None,
    extra: LoadScenarios | None = None,
    engines: Sequence[Path] = (),
    **settings: Any,
) -> dict[str, Any] | None:
    """Measure a bundle here, or on another machine, or write the pack that does it.

    Args:
        bundle: The bundle's folder.
        host: The other machine, as ssh takes it.
        pack: Write the pack there, and measure nothing.
        python: See `run_pack`.
        keep: See `run_pack`.
        progress: Called with (processes done, processes in all).
        extra: See `measure.bench_bundle`.
        engines: See `measure.bench_bundle`; measured on this machine only.
        settings: `threads`, `processes`, `queries`.

    Returns:
        The result of `measure.bench_bundle`, with `host` where there is one; None where a pack was written.

    Raises:
        UsageError: Host and pack exclude each other, or one of them cannot be; or an engine is to travel.
        UserError: See `measure.bench_bundle` and `run_pack`.
    """
    if host and pack:
        raise UsageError("--host measures there now and --pack writes a file for later; give one of them")
    if host is None and pack is None:
        measure_options: dict[str, Any] = {**settings, "progress": progress, "extra": extra, "engines": engines}
        return benchmark_bundle(bundle, **measure_options)
    if engines:
        raise UsageError("an engine is good for one GPU and one version: build it there, and run bench --engine there")
    if host is not None:
        check_host(host)
    data = pack_bundle(bundle, MeasurementSettings(**settings), extra)
    if pack is not None:
        write_pack(pack, data, outside=bundle)
        return None
    measurements = run_pack(data, host or "", python=python, keep=keep, progress=progress)
    return (measurements.bench or {}) | {"bundle": str(bundle), "host": host}


def measure_remote_latency(
    targets: Sequence[LatencyTarget],
    *,
    host: str,
    python: str = "python3",
    threads: int,
    processes: int = 5,
    queries: int = 240,
    energy: bool = False,
    progress: ProgressCallback | None = None,
) -> tuple[dict[str, LatencyResult], dict[str, Any]]:
    """As `latency.measure_latency`, on another machine.

    Returns:
        The latency of each target by its name, and the card of the device.

    Raises:
        UsageError, UserError: See `run_pack`.
    """
    pack = pack_files(targets, MeasurementSettings(threads, processes, queries, energy))
    measurements = run_pack(pack, host, python=python, progress=progress)
    by_file = {(m.sha256, m.runtime): m.latency for m in measurements.measured}
    latencies = {t.name: by_file[sha256_file(t.path), t.runtime] for t in targets}
    return {name: replace(latency, name=name) for name, latency in latencies.items()}, measurements.device


class _RemoteRun:
    """One pack on one machine."""

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
                if self.created_folder or error.exit_code != EXIT_BUSY:  # else it is the folder of the one that is busy
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
                f"the link to {self.host} was lost and did not come back ({lost}); {done} of {total or '?'} "
                f"measuring processes were done and are kept there in {self.folder}: the same command goes on with them"
            )
        time.sleep(_WAITS_S[self.lost_count])
        self.lost_count += 1

    def _prepare_folder(self) -> bool:
        """Find or make the folder there; whether the pack lies in it already."""
        replies: dict[str, str] = {}
        for line in self.link.run(_PREPARE, self.pack_hash, self.python).splitlines():
            word, _, rest = line.removeprefix(f"{LINE_PREFIX} ").partition(" ")
            replies |= {word: rest} if line.startswith(f"{LINE_PREFIX} ") else {}
        if "no-python" in replies:
            raise UserError(
                f"{self.host} has no {self.python}; install Python 3.11 or newer with numpy and onnxruntime there "
                f"(python3 -m pip install numpy onnxruntime), or name another with --python"
            )
        folder = replies.get("folder", "")
        if not re.fullmatch(rf"skd-bench-{self.pack_hash}\.\w+", PurePosixPath(folder).name):
            raise UserError(f"{self.host} did not say where its temporary folder is; is its shell a POSIX one?")
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
            return DeviceMeasurements.from_json(json.loads(results[-1]), f"the answer of {self.host}")
        except (IndexError, ValueError) as error:
            raise LinkLost(f"no whole answer came back ({error})") from error

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
                raise UserError(f"could not remove {self.folder} on {self.host}: {error}; remove it by hand") from error
