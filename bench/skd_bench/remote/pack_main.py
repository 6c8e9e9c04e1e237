"""The main program of a pack on the device: `python FILE [--json OUT]`.

The result of each measuring process is stored in a folder beside the pack. An interrupted run (lost connection, restart
of the device) continues from there.
"""

from __future__ import annotations

import argparse
import getpass
import hashlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from skd_bench.benchmark.benchmark import benchmark_bundle
from skd_bench.benchmark.engines.device_job import ScoringClips, describe_files, find_engine_folder, prepare_targets
from skd_bench.benchmark.fresh_process import run_in_fresh_process
from skd_bench.benchmark.latency import (
    LatencyResult,
    LatencyTarget,
    MeasurementSettings,
    ProgressCallback,
    measure_latency,
    measure_runnable,
)
from skd_bench.benchmark.measurements import SCHEMA, DeviceMeasurements, FileNote, MeasuredFile
from skd_bench.benchmark.request import BenchmarkRequest
from skd_bench.benchmark.worker_job import WorkerJob, WorkerResult
from skd_bench.device.info import DeviceInfo, device_id, read_device_info
from skd_bench.errors import UserError
from skd_bench.files import sha256_file, write_json
from skd_bench.remote.device_lock import DeviceLock
from skd_bench.remote.pack import BUNDLE_PATH, JOB_PATH, PackJob
from skd_bench.runtimes import uses_gpu
from skd_bench.runtimes.engine_cache import open_engine_cache
from skd_bench.text_tables import format_benchmark_table
from skd_bench.typed_json import parse_typed_json
from skd_bench.untrusted.text import escape_name, print_error, print_text

LINE_PREFIX = "skd-bench"  # the start of lines for the machine at the other end of the ssh connection


def main(pack: str, arguments: Sequence[str] | None = None) -> int:
    """Measure the content of the pack and write the result.

    Args:
        pack: The pack's path.
        arguments: The arguments without the program's name; None: those of the process.

    Returns:
        The exit code: 0 finished, 1 failed, 2 wrong command line, 75 another benchmark runs on this device, 130 stopped
        with Ctrl-C.
    """
    path = Path(pack)
    options = _build_parser(path).parse_args(arguments)
    if options.tether:
        threading.Thread(target=_stop_when_link_ends, daemon=True).start()
    progress = _send_progress if options.tether else _print_progress if sys.stderr.isatty() else None
    try:
        with DeviceLock(options.who, options.token):
            work = _make_work_folder(path)
            # Temporary files of runtimes go into the work folder, which is removed at the end: ONNX Runtime leaves one.
            os.environ["TMPDIR"] = tempfile.tempdir = str(work)
            result = measure_pack(path, work, progress)
            if options.tether:
                print(LINE_PREFIX, "result", json.dumps(result.to_json(), allow_nan=False), flush=True)
            else:
                result.save(options.json)
                shutil.rmtree(work, ignore_errors=True)
    except UserError as error:
        print_error(f"error: {error}")
        return error.exit_code
    except OSError as error:
        print_error(f"error: {error.filename or path.parent}: {error.strerror or error}")
        return 1
    except (zipfile.BadZipFile, zlib.error) as error:
        print_error(f"error: {path} is damaged ({error}); copy it again")
        return 1
    except KeyboardInterrupt:
        print_error("stopped; run the same command to continue")
        return 130
    if not options.tether:
        print_text(format_benchmark_table(result.bench) if result.bench else _format_short_table(result))
        print_text(f"wrote {options.json}; copy it back to the machine that made this pack")
    return 0


def measure_pack(pack: Path, work: Path, progress: ProgressCallback | None = None) -> DeviceMeasurements:
    """Measure the content of a pack; results of an earlier session in the work folder are used again.

    Args:
        pack: The pack's path.
        work: The folder for unpacked files and for the results of finished processes.
        progress: Called with (processes finished, all processes).

    Returns:
        The measurements of this session and of earlier ones.

    Raises:
        UserError: A file cannot run here, or the folder cannot be written.
        OSError: The disk is full.
    """
    with zipfile.ZipFile(pack) as file:
        job: PackJob = parse_typed_json(PackJob, json.loads(file.read(JOB_PATH)), "")
        file.extractall(work, [name for name in file.namelist() if name.startswith("parcel/")])
    device_info = read_device_info()
    resumable_jobs = ResumableJobs(work / "kept", device_info)
    latencies: dict[str, LatencyResult] = {}

    def measure_resumably(
        targets: Sequence[LatencyTarget],
        settings: MeasurementSettings,
        *,
        memory: bool = True,
        progress: ProgressCallback | None = None,
    ) -> dict[str, LatencyResult]:
        measured = measure_latency(targets, settings, memory=memory, progress=progress, run_job=resumable_jobs)
        latencies.update(measured)
        return measured

    settings, bench = job.settings, None
    notes: list[FileNote] = []
    if (work / BUNDLE_PATH).is_dir():
        request = BenchmarkRequest(work / BUNDLE_PATH, settings, job.extra)
        bench = benchmark_bundle(request, progress=progress, measure=measure_resumably)
        bench["bundle"] = BUNDLE_PATH.rpartition("/")[2]
        if resumable_jobs.session_count > 1:
            bench["notes"].append(f"measured in {resumable_jobs.session_count} sessions: the run was interrupted")
    else:
        targets = [LatencyTarget(f.name, work / f.file, f.runtime) for f in job.files]
        notes = _measure_files(job, targets, work, device_info, measure_resumably, progress)
    return DeviceMeasurements(
        schema=SCHEMA,
        pack=sha256_file(pack)[:12],
        device=device_info,
        **vars(settings),
        session_count=resumable_jobs.session_count,
        measured=[MeasuredFile(f.sha256, f.runtime, latencies[f.name]) for f in job.files if f.name in latencies],
        bench=bench,
        notes=notes,
        build=job.build.key,
    )


def _measure_files(
    job: PackJob,
    targets: Sequence[LatencyTarget],
    work: Path,
    device_info: DeviceInfo,
    measure: Callable[..., dict[str, LatencyResult]],
    progress: ProgressCallback | None,
) -> list[FileNote]:
    """Compile, measure and score single files; the engines stay in this user's cache, for the next pack."""
    on_gpu = any(uses_gpu(target.runtime) for target in targets)
    engines = find_engine_folder(open_engine_cache(), device_info, job.settings.gpu) if on_gpu else work
    prepared = prepare_targets(targets, engines, job.build, job.settings)
    if job.latency:
        measure_ready = partial(measure, settings=job.settings, progress=progress)
        _, failed = measure_runnable(list(prepared.ready.values()), measure_ready)
        prepared = prepared.without(failed)
    clips = ScoringClips(job.clips.key, work / job.clips.file, job.clips.preprocess) if job.clips else None
    return describe_files(targets, prepared, job.settings, clips)


class ResumableJobs:
    """Runs the jobs of measuring processes and stores each result.

    Args:
        folder: The folder for the results. Results from another device id are deleted.
        device_info: The device info of this machine.

    Attributes:
        session_count: The number of sessions that used this folder, including this one.
    """

    def __init__(self, folder: Path, device_info: DeviceInfo) -> None:
        self.folder = folder
        previous = _read_json_or_empty(folder / "sessions.json")
        if previous.get("device") != device_id(device_info):
            shutil.rmtree(folder, ignore_errors=True)
            previous = {}
        self.session_count = int(previous.get("session_count", 0)) + 1
        write_json(folder / "sessions.json", {"device": device_id(device_info), "session_count": self.session_count})

    def __call__(self, job: WorkerJob) -> WorkerResult:
        """The stored result of a job or, where there is none, the result of a fresh process."""
        name = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:16]
        path = self.folder / f"{name}.json"
        if stored := _read_json_or_empty(path):
            return cast(WorkerResult, stored)
        result = run_in_fresh_process(job)
        if "failed" not in result:
            write_json(path, result)
        return result


def _read_json_or_empty(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _make_work_folder(pack: Path) -> Path:
    """Make the work folder beside the pack or, where that is read-only, in the folder for temporary files."""
    if os.pathsep in str(pack):
        raise UserError(
            f"Python cannot import from {pack}: its path contains {os.pathsep!r}; move it to another folder"
        )
    sha = sha256_file(pack)[:12]  # a new pack of the same name must not use the results of the old one
    folder_beside_pack = pack.with_name(f"{pack.name}.{sha}.work")
    user = os.getuid() if hasattr(os, "getuid") else None  # on Windows each user has a temporary folder of their own
    temporary_folder = Path(tempfile.gettempdir(), f"skd-bench-work-{user}-{sha}")
    for folder in (folder_beside_pack, temporary_folder) if os.access(pack.parent, os.W_OK) else (temporary_folder,):
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError:
            continue
        if not folder.is_symlink() and user in (None, folder.stat().st_uid):
            return folder
    raise UserError(
        f"cannot make the folders {folder_beside_pack} and {temporary_folder}; copy {pack.name} "
        "to a folder that you may write to and that has free space"
    )


def _stop_when_link_ends() -> None:
    """Wait until the other end closes our standard input, then kill this process and its worker."""
    while os.read(0, 1):  # not sys.stdin: a thread that waits in it disturbs the interpreter's shutdown
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)  # only ssh uses this, with a POSIX shell


def _send_progress(done: int, total: int) -> None:
    print(LINE_PREFIX, "progress", done, total, flush=True)


def _print_progress(done: int, total: int) -> None:
    end = "\r\033[K" if done == total else ""
    print(f"\rmeasuring process {min(done + 1, total)} of {total}{end}", end="", file=sys.stderr, flush=True)


def _format_short_table(result: DeviceMeasurements) -> str:
    width = max((len(m.latency.name) for m in result.measured), default=0)
    rows = [
        f"{escape_name(m.latency.name):{width}}  {m.latency.p50.value:9.3f} ms"
        for m in result.measured
        if m.latency.p50
    ]
    rows += [f"{n.sha256[:12]} cannot run on {n.runtime}: {n.refused}" for n in result.notes if n.refused]
    return "\n".join([f"p50 on {result.device['cpu']} (device {result.device_id})", *rows])


def _build_parser(pack: Path) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python {pack.name}",
        description="Measure the content of this file on this machine. To continue a stopped run, repeat the command.",
        epilog="Exit codes: 0 finished, 1 failed, 2 wrong command line, 75 another benchmark runs here, 130 stopped.",
    )
    out = f"{pack.stem}.json"
    parser.add_argument("--json", metavar="OUT", default=out, help=f"the file to write (default: {out} in this folder)")
    # These options are for the machine that starts a pack over ssh: see `skd_bench.remote.runner`.
    parser.add_argument("--tether", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--who", default=f"{getpass.getuser()}@{socket.gethostname()}", help=argparse.SUPPRESS)
    parser.add_argument("--token", default="", help=argparse.SUPPRESS)
    return parser
