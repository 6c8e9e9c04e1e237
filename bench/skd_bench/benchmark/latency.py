"""Single-stream latency, measured in fresh processes that give every target its turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from skd_bench.errors import UserError
from skd_bench.stats import Interval, percentile_interval

ProgressCallback = Callable[[int, int], None]
WorkerJob = dict[str, Any]
ENERGY_S = 10.0  # as many as a figure to report needs, after two of idling


@dataclass(frozen=True)
class LatencyTarget:
    """Something to measure.

    Attributes:
        name: Unlike every other target's.
        path: The artefact's file.
        runtime: The name of the runtime that runs it.
        batch: Clips in a query.
        without_turns: All its queries of a process in one go, instead of in turns with the other targets.
    """

    name: str
    path: Path | str
    runtime: str = "ort"
    batch: int = 1
    without_turns: bool = False


@dataclass(frozen=True)
class LatencyResult:
    """The milliseconds of one target's queries, network alone (no decoding, no preprocessing).

    Attributes:
        name: The target's.
        samples_ms: Every sample, a list for each process, in the order of the queries.
        p50: Median and 95 % interval over processes; None below 11 samples.
        p90: None below 64 samples.
        p99: None below 662 samples.
        n: Samples in all.
        load_ms: Time from the file to a session, median over the processes.
        first_ms: The first query, median over the processes.
        steady: Whether the warm-up settled (within 10 %) in every process.
        peak_mb: Most memory of a process that held this target alone; None where it was not measured.
        finite: Whether its answers to random clips are numbers: the milliseconds of NaN are not to be believed.
        joules: Of a clip above the idle machine's (`energy.joules_per_query`), with its 95 % interval; None where they
            were not asked for.
    """

    name: str
    samples_ms: list[list[float]]
    p50: Interval | None
    p90: Interval | None
    p99: Interval | None
    n: int
    load_ms: float
    first_ms: float
    steady: bool
    peak_mb: float | None
    finite: bool = True
    joules: Interval | None = None

    def to_json(self) -> dict[str, Any]:
        """The figures without the samples: `p50_ms` and `p50_interval` (None where there are too few), and so on."""
        figures: dict[str, Any] = {"name": self.name, "n": self.n, "processes": len(self.samples_ms)}
        for label, p in (("p50", self.p50), ("p90", self.p90), ("p99", self.p99)):
            figures[f"{label}_ms"] = None if p is None else p.value
            figures[f"{label}_interval"] = None if p is None else [p.low, p.high]
        rest: dict[str, Any] = {"load_ms": self.load_ms, "first_ms": self.first_ms}
        rest |= {"steady": self.steady, "peak_mb": self.peak_mb}
        if self.joules is not None:
            rest |= {"joules_per_clip": self.joules.value, "joules_interval": [self.joules.low, self.joules.high]}
        return figures | rest | ({} if self.finite else {"finite": False})


def measure_latency(
    targets: Sequence[LatencyTarget],
    *,
    threads: int,
    processes: int = 5,
    queries: int = 240,
    seed: int = 0,
    memory: bool = True,
    energy: bool = False,
    progress: ProgressCallback | None = None,
    run_job: Callable[[WorkerJob], dict[str, Any]] | None = None,
) -> dict[str, LatencyResult]:
    """Measure every target in the same fresh processes, in turns, so that a slow minute slows all of them.

    Args:
        targets: What to measure; names must differ.
        threads: Threads a query may use.
        processes: Fresh processes, one after the other.
        queries: Timed queries for each target in each process.
        seed: Of the random clips and of the order of turns.
        memory: Also start one process for each target alone, for `peak_mb`.
        energy: Also start one process for each target that counts its joules for `ENERGY_S` seconds, before all others:
            where the machine has no meter, that is said at once.
        progress: Called with (processes done, processes in all), first with 0.
        run_job: Does one process' job; None: `in_fresh_process`. A wrapper of it can keep what is done.

    Returns:
        The latency of each target by its name, in the order of the targets.

    Raises:
        UserError: Two targets share a name, a number is below 1, a target cannot be loaded or run, or joules are asked
            for where no meter is.
    """
    names = [t.name for t in targets]
    if duplicates := sorted({n for n in names if names.count(n) > 1}):
        raise UserError(f"two targets are called {duplicates[0]!r}; each needs its own name")
    if min(threads, processes, queries) < 1:
        raise UserError(f"threads, processes and queries start at 1, not {threads}, {processes} and {queries}")
    if not targets:
        return {}
    alone, counted = list(targets) if memory else [], list(targets) if energy else []
    jobs = [_make_worker_job([target], threads, 0, seed) | {"energy_s": ENERGY_S} for target in counted]
    jobs += [_make_worker_job(targets, threads, queries, seed + i) for i in range(processes)]
    jobs += [_make_worker_job([target], threads, 0, seed) for target in alone]
    results = []
    for i, job in enumerate(jobs):
        if progress:
            progress(i, len(jobs))
        results.append((run_job or run_in_fresh_process)(job))
    if progress:
        progress(len(jobs), len(jobs))
    first, last = len(counted), len(counted) + processes
    joules = {
        target.name: _parse_joules_interval(result["energy"])
        for target, result in zip(counted, results[:first], strict=True)
    }
    peaks = {target.name: result["peak_mb"] for target, result in zip(alone, results[last:], strict=True)}
    rows = zip(*(result["targets"] for result in results[first:last]), strict=True)
    latency_results = (_summarise_latency(list(row), peaks.get(row[0]["name"])) for row in rows)
    return {
        latency_result.name: replace(latency_result, joules=joules.get(latency_result.name))
        for latency_result in latency_results
    }


def _parse_joules_interval(energy: dict[str, Any]) -> Interval:
    return Interval(energy["joules_per_clip"], *energy["interval"])


def _make_worker_job(targets: Sequence[LatencyTarget], threads: int, queries: int, seed: int) -> WorkerJob:
    rows = [
        {"name": t.name, "path": str(Path(t.path).absolute()), "runtime": t.runtime}
        | ({"batch": t.batch} if t.batch != 1 else {})
        | ({"stretch": True} if t.without_turns else {})
        for t in targets
    ]
    return {"targets": rows, "threads": threads, "queries": queries, "seed": seed}


def run_in_fresh_process(
    job: WorkerJob, *, worker: str = "skd_bench.benchmark.worker", import_path: Sequence[str] = ()
) -> dict[str, Any]:
    """Run one job of `measure_latency` in a process of its own.

    The package need not be installed: it is enough that it could be imported here, from a folder or from a zip.

    Args:
        job: See `worker.measure`.
        worker: The module that does the job. A study that compares with a runtime of its own has its own.
        import_path: Folders where that module is found, beside this package's own.

    Returns:
        What `worker.measure` gave.

    Raises:
        UserError: The process failed; says why.
    """
    package_root = str(Path(__file__).parents[2])
    path = os.pathsep.join(p for p in (package_root, *import_path, os.environ.get("PYTHONPATH")) if p)
    # numpy's own threads are never used by a worker, and each costs memory.
    environment = {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="skd-bench-") as folder:
        files = [str(Path(folder) / name) for name in ("job.json", "result.json")]
        Path(files[0]).write_text(json.dumps(job), "utf-8")
        # -P: a file called random.py in the user's folder must not become part of the measurement.
        command = [sys.executable, "-P", "-m", worker, *files]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            raise UserError(_format_failure(done))
        result: dict[str, Any] = json.loads(Path(files[1]).read_text("utf-8"))
        return result


def _format_failure(done: subprocess.CompletedProcess[str]) -> str:
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if done.returncode < 0:
        return f"a measuring process was killed by signal {-done.returncode} (out of memory?); it last said: {last}"
    return last


def _summarise_latency(rows: list[dict[str, Any]], peak_mb: float | None) -> LatencyResult:
    """One target's figures, from its row in every process."""
    samples = [np.asarray(row["samples_ns"], np.float64) / 1e6 for row in rows]
    return LatencyResult(
        name=rows[0]["name"],
        samples_ms=[s.tolist() for s in samples],
        p50=percentile_interval(samples, 50),
        p90=percentile_interval(samples, 90),
        p99=percentile_interval(samples, 99),
        n=sum(len(s) for s in samples),
        load_ms=float(np.median([row["load_ns"] for row in rows])) / 1e6,
        first_ms=float(np.median([row["first_ns"] for row in rows])) / 1e6,
        steady=all(row["steady"] for row in rows),
        peak_mb=peak_mb,
        finite=all(row.get("finite", True) for row in rows),
    )
