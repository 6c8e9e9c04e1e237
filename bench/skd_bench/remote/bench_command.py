"""One measurement as a command line asks for it: here, over ssh, or written into a pack."""

from __future__ import annotations

import getpass
import shlex
import socket
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from skd_bench.benchmark.latency import ProgressCallback
from skd_bench.benchmark.results import format_plan, save_result, without_samples
from skd_bench.benchmark.scenarios import LoadScenarios
from skd_bench.errors import UsageError
from skd_bench.remote.device_lock import DeviceLock
from skd_bench.remote.runner import run_benchmark


def bench_command(
    bundle: Path,
    *,
    runtimes: Sequence[str] = (),
    scenarios: Sequence[str] = (),
    batches: str = "",
    bound: float | None = None,
    engines: Sequence[Path] = (),
    out: Path | None = None,
    dry_run: bool = False,
    host: str | None = None,
    pack: Path | None = None,
    python: str = "python3",
    keep: bool = False,
    progress: ProgressCallback | None = None,
    **settings: int,
) -> dict[str, Any] | str:
    """Measure a bundle, or say in a sentence what was done instead.

    Args:
        bundle: The bundle's folder.
        runtimes: See `scenarios.Extra`.
        scenarios: See `scenarios.Extra`.
        batches: Such as "1,2,8"; empty: none.
        bound: See `scenarios.Extra`.
        engines: See `measure.bench_bundle`.
        out: Where the result goes, a .json file; None: it is returned only.
        dry_run: Say what would be measured.
        host: See `remote.bench_anywhere`.
        pack: See `remote.bench_anywhere`.
        python: See `remote.bench_anywhere`.
        keep: See `remote.bench_anywhere`.
        progress: Called with (processes done, processes in all).
        settings: `threads`, `processes`, `queries`.

    Returns:
        The result of `measure.bench_bundle` without its samples; or, where nothing was measured, what to tell.

    Raises:
        UsageError: What is asked cannot be.
        UserError: See `remote.bench_anywhere`; or another bench runs on this machine.
    """
    extra = LoadScenarios(list(scenarios), parse_batches(batches), bound, list(runtimes)).check_and_complete()
    if out is not None and out.suffix != ".json":  # before minutes of measuring, not after
        raise UsageError(f"the result is written to a .json file, with the samples beside it as .npz; not to {out}")
    if dry_run:
        return format_plan(bundle, extra, engines=engines, **settings)
    run_options: dict[str, Any] = {"python": python, "keep": keep, "progress": progress, **settings}
    is_local = host is None and pack is None  # another machine is locked there
    with DeviceLock(f"{getpass.getuser()}@{socket.gethostname()}") if is_local else nullcontext():
        result = run_benchmark(bundle, host=host, pack=pack, extra=extra, engines=engines, **run_options)
    if result is None:
        return f"wrote {pack}; on the device: python3 {shlex.quote(pack.name if pack else '')}"
    if out is not None:
        save_result(result, out)
    return without_samples(result)


def parse_batches(text: str) -> list[int]:
    """Batch sizes such as "1,2,8".

    Raises:
        UsageError: A part is no whole number.
    """
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"batches are whole numbers with commas between them, such as 1,2,8; not {text!r}") from None
