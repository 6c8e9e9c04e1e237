"""Prepares one file in a process of its own: `python -m skd_bench.benchmark.engines.prepare_worker JOB RESULT`.

An ONNX file is compiled where its runtime runs engines. Then one random clip is run, which shows that the file can run
here, and after which an engine can describe its layers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TypedDict

from skd_bench.errors import UserError
from skd_bench.files import write_json
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


def main(arguments: list[str]) -> int:
    """Run the job and write the result; a `UserError` is printed as one line on standard error."""
    job_path, result_path = arguments
    try:
        write_json(result_path, prepare_file(json.loads(Path(job_path).read_text("utf-8"))))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
