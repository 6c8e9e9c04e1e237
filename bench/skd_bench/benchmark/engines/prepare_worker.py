"""Prepares one file in a process of its own: `python -m skd_bench.benchmark.engines.prepare_worker JOB RESULT`.

An ONNX file is compiled where its runtime runs engines. Then one random clip is run, which shows that the file can run
here, and after which an engine can describe its layers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypedDict

from skd_bench.benchmark.worker_program import run_worker_program
from skd_bench.device.child_process import end_with_parent
from skd_bench.runtimes import find_runtime
from skd_bench.runtimes.base import CompileOptions, CompilingRuntime, make_random_clip


class PrepareJob(TypedDict):
    """The file, its runtime, and where and how engines are compiled (`CompileOptions` as a JSON object)."""

    path: str
    runtime: str
    threads: int
    folder: str
    workspace_mib: int
    level: int | None
    tf32: bool


class PreparedFile(TypedDict):
    """The file to load (an engine, or the file itself), and what its session reported after one query."""

    path: str
    facts: dict[str, object]


def prepare_file(job: PrepareJob) -> PreparedFile:
    """Compile a file where its runtime needs that, and run one random clip.

    Raises:
        UserError: The runtime cannot be used, or cannot compile, load or run the file.
    """
    runtime, path = find_runtime(job["runtime"]), Path(job["path"])
    if isinstance(runtime, CompilingRuntime):
        options = CompileOptions(job["workspace_mib"], job["level"], job["tf32"])
        path = runtime.compile(path, Path(job["folder"]), options)
    session = runtime.load(path, threads=job["threads"])
    try:
        session.run(make_random_clip(session))
        return {"path": str(path), "facts": session.runtime_info()}
    finally:
        session.close()


if __name__ == "__main__":
    end_with_parent()
    sys.exit(run_worker_program(prepare_file, sys.argv[1:]))
