"""One measuring process: `python -m skd_bench.benchmark.worker JOB.json RESULT.json`.

`skd_bench.benchmark.latency` starts it. The job contains the targets, the threads and the number of queries; the result
contains all samples in nanoseconds.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skd_bench.benchmark.concurrent_sessions import ConcurrentSessions
from skd_bench.benchmark.gpu_timing import GpuClocks, GpuPlan, GpuTiming, time_on_gpu
from skd_bench.benchmark.worker_job import JobTarget, TargetSamples, WorkerJob, WorkerResult
from skd_bench.benchmark.worker_program import run_worker_program
from skd_bench.device.child_process import end_with_parent
from skd_bench.device.energy.meter import EnergyMeter, QueryEnergy, measure_joules_per_query, open_energy_meter
from skd_bench.device.gpu_clock import ClockReading, open_gpu_clock
from skd_bench.errors import UserError
from skd_bench.runtimes import InferenceSession, find_runtime

# Targets run in turns, in blocks of this many queries. One untimed query before each block brings the network's weights
# back into the processor's cache, where a deployed network, which runs alone, also finds them.
_BLOCK = 8
# A warm-up ends when the medians of three windows of queries in a row differ by at most this ratio.
_WINDOW = 8
_STEADY_RATIO = 1.10
_MAX_WINDOWS = 15
_MAX_WARM_UP_NS = 3_000_000_000


_OpenSessions = dict[tuple[str, str, int], tuple[InferenceSession, int]]  # by path, runtime and number


@dataclass
class LoadedTarget:
    """One target, loaded in this process, with its clips and its samples in nanoseconds."""

    name: str
    session: InferenceSession
    clip: npt.NDArray[Any]
    load_ns: int
    first_ns: int
    samples: npt.NDArray[np.int64]
    done: int = 0
    steady: bool = field(default=False)
    block: int = _BLOCK
    finite: bool = True
    on_gpu: bool = False
    seconds: float = 0.0
    warm_seconds: float = 0.0
    clocks: GpuClocks | None = None

    def mark_steady(self, steady: bool) -> None:
        """Note whether its times settled during warm-up."""
        self.steady = steady

    def take_gpu_timing(self, timing: GpuTiming) -> None:
        """Note what was measured on a GPU, which is at least what was planned."""
        self.samples = np.array(timing.samples_ns, np.int64)
        self.done = len(self.samples)
        self.steady = self.steady and timing.steady
        self.clocks = timing.clocks

    def next_block(self) -> npt.NDArray[np.int64]:
        """The place of the next samples; they count as measured."""
        block = self.samples[self.done : self.done + self.block]
        self.done += len(block)
        return block


def run_job(job: WorkerJob, meter: Callable[[], EnergyMeter | str] = open_energy_meter) -> WorkerResult:
    """Load every target, warm it up, and time the targets in turns; or measure the energy of one target.

    Args:
        job: What to measure.
        meter: Opens the machine's energy meter, or returns the reason why there is none.

    Raises:
        UserError: A target on the CPU cannot be loaded or run, the clock went backwards, or energy is requested and
            there is no energy meter.
    """
    try:
        return _measure_targets(job, meter)
    except _GpuTargetError as error:
        return {"targets": [], "peak_mb": None, "failed": {"name": error.target, "reason": str(error)}}


class _GpuTargetError(Exception):
    """A target on a GPU cannot be loaded or run; the message is the reason."""

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(reason)
        self.target = target


@contextmanager
def _blame(name: str, *, on_gpu: bool) -> Iterator[None]:
    """Turn the error of a target on a GPU into one that names the target."""
    try:
        yield
    except UserError as error:
        if on_gpu:
            raise _GpuTargetError(name, str(error)) from error
        raise


def _measure_targets(job: WorkerJob, meter: Callable[[], EnergyMeter | str]) -> WorkerResult:
    energy_meter = meter() if "energy_s" in job else None
    if isinstance(energy_meter, str):
        raise UserError(f"energy: {energy_meter}")
    rng = np.random.default_rng(job["seed"])
    # Before a network is loaded: programs that use the GPU now are not this one.
    on_gpu = any("warm_seconds" in row for row in job["targets"])
    gpu_clock = open_gpu_clock() if on_gpu and job["queries"] else "there is no GPU target"
    open_sessions: _OpenSessions = {}
    loaded = []
    for row in job["targets"]:
        with _blame(row["name"], on_gpu="warm_seconds" in row):
            loaded.append(_load_target(row, job["threads"], job["queries"], rng, open_sessions))
    gc.collect()
    gc.disable()
    if job["queries"]:
        for target in loaded:
            with _blame(target.name, on_gpu=target.on_gpu):
                target.mark_steady(_warm_up_target(target))
        _time_in_turns(loaded, job["queries"], rng, *(() if isinstance(gpu_clock, str) else (gpu_clock,)))
    energy = None
    if energy_meter:
        with _blame(loaded[0].name, on_gpu=loaded[0].on_gpu):
            energy = _count_joules(loaded[0], energy_meter, job["energy_s"])
    for target in loaded:
        target.session.close()
        _check_clock(target)
    result: WorkerResult = {"targets": [_describe_samples(target) for target in loaded], "peak_mb": _read_peak_mb()}
    return result if energy is None else result | {"energy": energy}


def _describe_samples(target: LoadedTarget) -> TargetSamples:
    row: TargetSamples = {
        "name": target.name,
        "samples_ns": target.samples.tolist(),
        "load_ns": target.load_ns,
        "first_ns": target.first_ns,
        "steady": target.steady,
        "finite": target.finite,
    }
    if target.clocks is not None:
        row["clocks"] = asdict(target.clocks)
    return row


def _open_session(
    target: JobTarget, number: int, threads: int, sessions: _OpenSessions
) -> tuple[InferenceSession, int]:
    """The session of a file with this number, and the nanoseconds that loading it took."""
    key = target["path"], target["runtime"], number
    if key not in sessions:
        target_runtime = find_runtime(target["runtime"])
        target_runtime.import_libraries()
        begin = time.perf_counter_ns()
        session = target_runtime.load(Path(target["path"]), threads=threads)
        sessions[key] = session, time.perf_counter_ns() - begin
    return sessions[key]


def _load_target(
    target: JobTarget,
    threads: int,
    queries: int,
    rng: np.random.Generator,
    sessions: _OpenSessions | None = None,
) -> LoadedTarget:
    """Load a target and run one query; targets that differ only in their batch size share a session."""
    sessions = {} if sessions is None else sessions
    streams, batch = target.get("streams", 1), int(target.get("batch", 1))
    opened = [_open_session(target, number, threads, sessions) for number in range(streams)]
    session, load_ns = opened[0]
    if "streams" in target:
        batch_session: InferenceSession = ConcurrentSessions([one for one, _ in opened])
    else:
        batch_session = session if session.input.shape[0] in (None, batch) else _SplitBatchSession(session, batch)
    clips = _random_clips(session, target["path"], batch, rng)
    begin = time.perf_counter_ns()
    logits = batch_session.run(clips)
    first_ns = time.perf_counter_ns() - begin
    samples, block = np.zeros(queries, np.int64), queries if target.get("stretch") else _BLOCK
    return LoadedTarget(
        target["name"],
        batch_session,
        clips,
        load_ns,
        first_ns,
        samples,
        block=block,
        finite=bool(np.isfinite(logits).all()),
        on_gpu="warm_seconds" in target,
        seconds=target.get("seconds", 0.0),
        warm_seconds=target.get("warm_seconds", 0.0),
    )


class _SplitBatchSession:
    """Splits larger queries for a network whose file has a fixed batch size (usually 1).

    Args:
        session: The network's session.
        batch: Clips in a query.

    Raises:
        UserError: `batch` is not a multiple of the network's batch size.
    """

    def __init__(self, session: InferenceSession, batch: int) -> None:
        self.input, self.output, self.runtime_info, self.close = (
            session.input,
            session.output,
            session.runtime_info,
            session.close,
        )
        self._session, self._step = session, session.input.shape[0] or 1
        if batch % self._step:
            raise UserError(
                f"queries of {batch} clips cannot be split for a network with a fixed batch size of {self._step}; "
                f"choose a multiple of {self._step}"
            )

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Run the parts one after the other: see `InferenceSession.run`."""
        run, step = self._session.run, self._step
        return np.concatenate([run(x[i : i + step]) for i in range(0, len(x), step)])


def _random_clips(session: InferenceSession, path: str, batch: int, rng: np.random.Generator) -> npt.NDArray[Any]:
    """Random clips: uniform pixels for a network with uint8 input, else numbers from a normal distribution."""
    _, *rest = session.input.shape
    shape = [n for n in rest if n is not None]
    if len(shape) != len(rest):
        raise UserError(
            f"{path} takes {session.input.shape}, but latency is measured with clips of a fixed number of frames and a "
            "fixed size; export the network with only the batch axis dynamic"
        )
    if session.input.dtype == "uint8":
        return rng.integers(0, 256, (batch, *shape), dtype=np.uint8)
    return rng.standard_normal((batch, *shape), dtype=np.float32).astype(session.input.dtype, copy=False)


def _warm_up_target(target: LoadedTarget) -> bool:
    """Run queries until the medians of three windows in a row are within 10 %; False where that does not happen."""
    medians: list[float] = []
    begin = time.perf_counter_ns()
    window = np.zeros(_WINDOW, np.int64)
    while len(medians) < _MAX_WINDOWS and time.perf_counter_ns() - begin < _MAX_WARM_UP_NS:
        time_queries(target, window)
        medians.append(float(np.median(window)))
        if len(medians) >= 3 and max(medians[-3:]) <= _STEADY_RATIO * min(medians[-3:]):
            return True
    return False


def _time_in_turns(
    loaded: list[LoadedTarget],
    queries: int,
    rng: np.random.Generator,
    read_clock: Callable[[], ClockReading] = lambda: ClockReading(None),
) -> None:
    """Measure every target's samples in blocks; each round has another random order of targets."""
    while any(target.done < queries for target in loaded):
        for index in rng.permutation(len(loaded)):
            target = loaded[index]
            if target.done >= queries:  # a target without turns is finished after its first block
                continue
            if target.on_gpu:
                plan = GpuPlan(queries, target.seconds, target.warm_seconds)
                with _blame(target.name, on_gpu=True):
                    target.take_gpu_timing(time_on_gpu(partial(target.session.run, target.clip), plan, read_clock))
            else:
                target.session.run(target.clip)
                time_queries(target, target.next_block())


def time_queries(target: LoadedTarget, into: npt.NDArray[np.int64]) -> None:
    """Fill an array with nanoseconds per query; each query starts when the one before has finished."""
    run, clip, clock = target.session.run, target.clip, time.perf_counter_ns
    for i in range(len(into)):
        begin = clock()
        run(clip)
        into[i] = clock() - begin


def _count_joules(target: LoadedTarget, meter: EnergyMeter, seconds: float) -> QueryEnergy:
    _warm_up_target(target)
    try:
        query = partial(target.session.run, target.clip)
        return measure_joules_per_query(meter, query, seconds=seconds, idle_seconds=seconds / 5)
    finally:
        meter.close()


def _check_clock(target: LoadedTarget) -> None:
    if target.samples.size and target.samples.min() <= 0:
        raise UserError(
            f"this machine's clock stood still or went backwards during a query of {target.name} "
            f"({target.samples.min()} ns); this happens when a virtual machine is paused or moved: measure again"
        )


def _read_peak_mb() -> float | None:
    """Peak memory of this process in MiB, from VmHWM: getrusage would include the size of the parent process."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((round(int(line.split()[1]) / 1024, 1) for line in lines if line.startswith("VmHWM:")), None)


if __name__ == "__main__":
    end_with_parent()
    sys.exit(run_worker_program(run_job, sys.argv[1:]))
