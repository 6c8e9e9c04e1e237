"""Runs a job, a JSON object, in a fresh Python process: what crashes there or loses its GPU ends only that process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from skd_bench.benchmark.worker_job import WorkerJob, WorkerResult
from skd_bench.errors import EXIT_PAUSED, UserError


def run_in_fresh_process(
    job: WorkerJob, *, worker: str = "skd_bench.benchmark.worker", import_path: Sequence[str] = ()
) -> WorkerResult:
    """Run one job of `skd_bench.benchmark.latency.measure_latency`: see `run_worker`.

    Returns:
        The result of `skd_bench.benchmark.worker.run_job`.
    """
    return cast(WorkerResult, run_worker(worker, job, gpu=job.get("gpu"), import_path=import_path))


def run_worker(
    worker: str, job: Mapping[str, Any], *, gpu: str | None = None, import_path: Sequence[str] = ()
) -> Mapping[str, Any]:
    """Run a worker module as ``python -m WORKER JOB.json RESULT.json``.

    This package need not be installed. It may also be imported from a folder or from a zip.

    Args:
        worker: The module. A study that adds runtimes uses a worker of its own.
        job: What the worker reads.
        gpu: The only GPU that the process sees (index, UUID or MIG UUID); None: as this process.
        import_path: Folders to import that module from, besides the folder of this package.

    Returns:
        What the worker wrote.

    Raises:
        UserError: The process failed; the message is the last line of its standard error. After a full disk, the exit
            code is 75.
    """
    package_root = str(Path(__file__).parents[2])
    inherited = (os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p)
    path = os.pathsep.join((package_root, *import_path, *inherited))
    # A worker does not use numpy's own threads, and each of them would add to its peak memory.
    environment = {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}
    environment.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # CUDA's own order begins with the fastest GPU
    if gpu is not None:
        environment |= {"CUDA_VISIBLE_DEVICES": gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    with tempfile.TemporaryDirectory(prefix="skd-bench-") as folder:
        files = [str(Path(folder) / name) for name in ("job.json", "result.json")]
        Path(files[0]).write_text(json.dumps(job), "utf-8")
        command = [sys.executable, "-m", worker, *files]
        # Python imports from the current folder first: a file called random.py there would replace its own module.
        done = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode != 0:
            code = EXIT_PAUSED if done.returncode == EXIT_PAUSED else 1
            raise UserError(_format_failure(done), exit_code=code)
        result: Mapping[str, Any] = json.loads(Path(files[1]).read_text("utf-8"))
        return result


def _format_failure(done: subprocess.CompletedProcess[str]) -> str:
    last = (done.stderr.strip().splitlines() or ["no error message"])[-1]
    if done.returncode < 0:
        return f"a measuring process was killed by signal {-done.returncode} (out of memory?); its last output: {last}"
    return last
