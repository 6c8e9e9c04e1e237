"""Single-stream latency, measured in fresh processes that run all targets in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from skd_bench.benchmark.fresh_process import run_in_fresh_process
from skd_bench.benchmark.gpu_timing import GpuClocks
from skd_bench.benchmark.worker_job import JobTarget, TargetSamples, WorkerJob, WorkerResult
from skd_bench.device.energy.meter import QueryEnergy
from skd_bench.errors import UserError
from skd_bench.runtimes import uses_gpu
from skd_bench.stats import Interval, percentile_interval

if TYPE_CHECKING:
    from typing import NotRequired  # Python 3.10, which a pack supports, does not have it

ProgressCallback = Callable[[int, int], None]
ENERGY_S = 10.0  # seconds of queries for one energy measurement, after two idle seconds


@dataclass(frozen=True)
class MeasurementSettings:
    """The settings of a measurement.

    Attributes:
        threads: Threads that a query may use, at least 1.
        processes: Number of fresh processes, at least 1; they run one after the other.
        queries: Timed queries of each target in each process, at least 1.
        energy: Whether to also measure the energy of each target.
        gpu: The GPU to use: its index as nvidia-smi counts, its UUID, or the UUID of a MIG instance; None: the first.
        seconds: A GPU target is queried at least this long in each process.
        warm_seconds: A GPU target is warmed up at least this long, right before its queries: clocks rise for hundreds
            of milliseconds.
        builds: Engines that are compiled from each file, at least 1; the one of median latency is measured.
    """

    threads: int = 1
    processes: int = 5
    queries: int = 240
    energy: bool = False
    gpu: str | None = None
    seconds: float = 1.0
    warm_seconds: float = 0.5
    builds: int = 1


@dataclass(frozen=True)
class LatencyTarget:
    """One file on one runtime, to be measured.

    Attributes:
        name: Its name; the targets of one call must have different names.
        path: The artefact's file.
        runtime: The name of the runtime that runs it.
        batch: Clips in a query, at least 1.
        streams: Sessions that share the clips of a query and run at the same time, each clip by clip; None: one session
            that takes them as one batch.
        without_turns: Whether a process runs all its queries without a break, instead of in turns with other targets.
    """

    name: str
    path: Path | str
    runtime: str = "ort"
    batch: int = 1
    streams: int | None = None
    without_turns: bool = False


class FailedTargetError(UserError):
    """A target on a GPU cannot be loaded or run; the message is the reason.

    Attributes:
        target: Its name.
    """

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(reason)
        self.target = target


class LatencyFigures(TypedDict):
    """A `LatencyResult` without its samples, as a JSON object.

    A percentile and its interval are None where there are too few samples. `finite` is present only where it is False,
    `joules_per_clip` and its interval only where energy was requested, `clocks` (a `GpuClocks`) only on a GPU.
    """

    name: str
    n: int
    processes: int
    p50_ms: float | None
    p50_interval: list[float] | None
    p90_ms: float | None
    p90_interval: list[float] | None
    p99_ms: float | None
    p99_interval: list[float] | None
    load_ms: float
    first_ms: float
    steady: bool
    peak_mb: float | None
    joules_per_clip: NotRequired[float]
    joules_interval: NotRequired[list[float]]
    finite: NotRequired[bool]
    clocks: NotRequired[Mapping[str, Any]]


@dataclass(frozen=True)
class LatencyResult:
    """The latency of one target in milliseconds, network only (without decoding and preprocessing).

    Attributes:
        name: The target's name.
        samples_ms: All samples, one list for each process, in the order of the queries.
        p50: Median and 95 % interval over processes; None below 11 samples.
        p90: 90th percentile and interval; None below 64 samples.
        p99: 99th percentile and interval; None below 662 samples.
        n: Number of samples over all processes.
        load_ms: Time to load the file into a session, median over the processes.
        first_ms: Time of the first query, median over the processes.
        steady: Whether the warm-up settled (within 10 %) in every process.
        peak_mb: Peak memory in MiB of a process that loaded only this target; None where it was not measured.
        finite: Whether its logits of random clips are finite. Latency of a network that returns NaN is not usable.
        joules: Energy of a clip above the idle machine's, with its 95 % interval (see
            `skd_bench.device.energy.meter.measure_joules_per_query`); None where it was not requested.
        clocks: The GPU's clock around the queries of all processes; None on a CPU.
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
    clocks: GpuClocks | None = None

    def to_json(self) -> LatencyFigures:
        """A JSON object of all values except the samples."""
        figures: LatencyFigures = {
            "name": self.name,
            "n": self.n,
            "processes": len(self.samples_ms),
            "p50_ms": None if self.p50 is None else self.p50.value,
            "p50_interval": None if self.p50 is None else [self.p50.low, self.p50.high],
            "p90_ms": None if self.p90 is None else self.p90.value,
            "p90_interval": None if self.p90 is None else [self.p90.low, self.p90.high],
            "p99_ms": None if self.p99 is None else self.p99.value,
            "p99_interval": None if self.p99 is None else [self.p99.low, self.p99.high],
            "load_ms": self.load_ms,
            "first_ms": self.first_ms,
            "steady": self.steady,
            "peak_mb": self.peak_mb,
        }
        if self.joules is not None:
            figures["joules_per_clip"] = self.joules.value
            figures["joules_interval"] = [self.joules.low, self.joules.high]
        if self.clocks is not None:
            figures["clocks"] = asdict(self.clocks)
        if not self.finite:
            figures["finite"] = False
        return figures


def measure_latency(
    targets: Sequence[LatencyTarget],
    settings: MeasurementSettings,
    *,
    seed: int = 0,
    memory: bool = True,
    progress: ProgressCallback | None = None,
    run_job: Callable[[WorkerJob], WorkerResult] | None = None,
) -> dict[str, LatencyResult]:
    """Measure the latency of targets in the same fresh processes.

    The targets of a process run in turns, so that a disturbance of the machine affects all of them.

    Args:
        targets: What to measure; their names must differ.
        settings: Threads, processes, queries, and whether to also start one process for each target that measures its
            energy for `ENERGY_S` seconds. These processes run first, so that a machine without an energy meter is
            reported at once.
        seed: Seed of the random clips and of the order of turns.
        memory: Whether to also start one process for each target alone, to measure `peak_mb`.
        progress: Called with (processes finished, all processes), first with 0.
        run_job: Runs the job of one process and returns its result; None: `run_in_fresh_process`. A wrapper of it can
            store the results.

    Returns:
        The latency of each target by its name, in the order of the targets.

    Raises:
        UserError: Two targets have the same name, a number is below 1, a target cannot be loaded or run (on a GPU a
            `FailedTargetError`), or energy is requested and the machine has no energy meter.
    """
    names = [t.name for t in targets]
    if duplicates := sorted({n for n in names if names.count(n) > 1}):
        raise UserError(f"two targets are called {duplicates[0]!r}; give each target its own name")
    threads, processes, queries = settings.threads, settings.processes, settings.queries
    if min(threads, processes, queries) < 1:
        raise UserError(f"threads, processes and queries must be at least 1, not {threads}, {processes} and {queries}")
    if not targets:
        return {}
    alone, counted = list(targets) if memory else [], list(targets) if settings.energy else []
    jobs: list[WorkerJob] = [
        {**_make_worker_job([target], settings, 0, seed), "energy_s": ENERGY_S} for target in counted
    ]
    jobs += [_make_worker_job(targets, settings, queries, seed + i) for i in range(processes)]
    jobs += [_make_worker_job([target], settings, 0, seed) for target in alone]
    results = []
    for i, job in enumerate(jobs):
        if progress:
            progress(i, len(jobs))
        results.append((run_job or run_in_fresh_process)(job))
        if failed := results[-1].get("failed"):
            raise FailedTargetError(failed["name"], failed["reason"])
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


def measure_runnable(
    targets: Sequence[LatencyTarget], measure: Callable[[Sequence[LatencyTarget]], dict[str, LatencyResult]]
) -> tuple[dict[str, LatencyResult], dict[str, str]]:
    """Measure the targets, without those on a GPU that fail.

    After a failure the others are measured again from the start: an error can spoil the GPU for the whole process, and
    all targets must be measured in the same processes.

    Args:
        targets: See `measure_latency`.
        measure: `measure_latency` with all options bound; it is called with the targets only.

    Returns:
        The latency of each target that can run, and why the others cannot, by their names.

    Raises:
        UserError: See `measure_latency`.
    """
    failed: dict[str, str] = {}
    while True:
        try:
            return measure([target for target in targets if target.name not in failed]), failed
        except FailedTargetError as error:
            failed[error.target] = str(error)


def _parse_joules_interval(energy: QueryEnergy) -> Interval:
    low, high = energy["interval"]
    return Interval(energy["joules_per_clip"], low, high)


def _make_worker_job(
    targets: Sequence[LatencyTarget], settings: MeasurementSettings, queries: int, seed: int
) -> WorkerJob:
    rows = [_make_job_target(target, settings) for target in targets]
    job: WorkerJob = {"targets": rows, "threads": settings.threads, "queries": queries, "seed": seed}
    return job if settings.gpu is None else {**job, "gpu": settings.gpu}


def _make_job_target(target: LatencyTarget, settings: MeasurementSettings) -> JobTarget:
    row: JobTarget = {
        "name": target.name,
        "path": str(Path(target.path).absolute()),
        "runtime": target.runtime,
    }
    if target.batch != 1:
        row["batch"] = target.batch
    if target.streams is not None:
        row["streams"] = target.streams
    on_gpu = uses_gpu(target.runtime)
    if target.without_turns or on_gpu:  # in turns with targets on the CPU, the GPU would idle and lower its clocks
        row["stretch"] = True
    if on_gpu:
        row["seconds"], row["warm_seconds"] = settings.seconds, settings.warm_seconds
    return row


def _summarise_latency(rows: list[TargetSamples], peak_mb: float | None) -> LatencyResult:
    """The latency of one target from its row in the result of every process."""
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
        clocks=GpuClocks.merge([GpuClocks(**row["clocks"]) for row in rows]) if "clocks" in rows[0] else None,
    )
