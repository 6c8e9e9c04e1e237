"""The bench command: measure a bundle on this machine or over ssh, write a pack, or print the plan."""

from __future__ import annotations

import getpass
import shlex
import socket
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from skd_bench.benchmark.latency import ProgressCallback
from skd_bench.benchmark.request import BenchmarkRequest
from skd_bench.benchmark.results import BenchmarkResult, format_plan, save_result, without_samples
from skd_bench.errors import UsageError
from skd_bench.remote.device_lock import DeviceLock
from skd_bench.remote.runner import SshTarget, run_benchmark


def bench_command(
    request: BenchmarkRequest,
    *,
    ssh: SshTarget | None = None,
    pack: Path | None = None,
    out: Path | None = None,
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
) -> BenchmarkResult | str:
    """Measure a bundle, write a pack, or describe the plan.

    Args:
        request: What to measure.
        ssh: See `run_benchmark`.
        pack: See `run_benchmark`.
        out: The .json file to write the result to; None: the result is only returned.
        dry_run: Whether to measure nothing and return the plan.
        progress: Called with (processes finished, all processes).

    Returns:
        The result of `benchmark_bundle` without its samples. For a dry run the plan, and for a pack a sentence that
        says how to run it.

    Raises:
        UsageError: A value is unknown, out of range, or contradicts another one.
        UserError: See `run_benchmark`; or another benchmark runs on this machine.
    """
    request = replace(request, extra=request.extra.check_and_complete())
    if out is not None and out.suffix != ".json":  # checked before minutes of measuring
        raise UsageError(f"{out} must end in .json; the samples are written beside it as an .npz file")
    if dry_run:
        return format_plan(request)
    is_local = ssh is None and pack is None  # another machine's lock is taken there
    with DeviceLock(f"{getpass.getuser()}@{socket.gethostname()}") if is_local else nullcontext():
        result = run_benchmark(request, ssh=ssh, pack=pack, progress=progress)
    if result is None:
        return f"wrote {pack}; run it on the device with: python3 {shlex.quote(pack.name if pack else '')}"
    if out is not None:
        save_result(result, out)
    return without_samples(result)


def parse_batches(text: str) -> list[int]:
    """Parse batch sizes such as "1,2,8"; an empty text gives an empty list.

    Raises:
        UsageError: A part is not a whole number.
    """
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"batches must be whole numbers separated by commas, such as 1,2,8; not {text!r}") from None
