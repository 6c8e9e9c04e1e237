"""The program of a worker process: it reads its job, runs it, and writes the result."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from skd_bench.errors import UserError
from skd_bench.files import write_json


def run_worker_program(run: Callable[[Any], Mapping[str, Any]], arguments: Sequence[str]) -> int:
    """Run the job and write the result; a `UserError` is printed as one line on standard error.

    Args:
        run: Called with the job, a JSON object; returns the result, a JSON object too.
        arguments: The path of the job's JSON file and the path of the result to write.

    Returns:
        The exit code.
    """
    job_path, result_path = arguments
    try:
        write_json(result_path, run(json.loads(Path(job_path).read_text("utf-8"))))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0
