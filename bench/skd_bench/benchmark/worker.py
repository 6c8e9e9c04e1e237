"""One fresh measuring process: `python -m skd_bench.benchmark.worker JOB.json RESULT.json`, started by `latency.py`.

The job says which targets, threads and how many queries; the result holds every sample in nanoseconds.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skd_bench.device.energy.meter import EnergyMeter, measure_joules_per_query, open_energy_meter
from skd_bench.errors import UserError
from skd_bench.files import write_json
from skd_bench.runtimes import InferenceSession, find_runtime

# Targets take turns in short blocks, each after one untimed query that brings its weights back into the cache: a
# deployed network runs alone and finds them there.
_BLOCK = 8
_WINDOW = 8
_STEADY_RATIO = 1.10
_MAX_WINDOWS = 15
_MAX_WARM_UP_NS = 3_000_000_000


@dataclass
class _LoadedTarget:
    """One target in this process."""

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


def main(arguments: list[str]) -> int:
    """Do the job and write the result; a `UserError` becomes one line on stderr.

    Returns:
        The exit code.
    """
    job_path, result_path = arguments
    try:
        write_json(result_path, run_job(json.loads(Path(job_path).read_text("utf-8"))))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def run_job(job: dict[str, Any], meter: Callable[[], EnergyMeter | str] = open_energy_meter) -> dict[str, Any]:
    """Load every target, warm each up, and time them in turns; or count one target's joules.

    Args:
        job: `targets` (each with `name`, `path`, `runtime`, and perhaps `batch` (clips in a query, 1) and `stretch`
            (its queries in one go, without turns)), `threads`, `queries` (for each target), `seed`, and perhaps
            `energy_s`: for so many seconds the first target's joules are counted.
        meter: Opens the machine's energy meter.

    Returns:
        `targets` (each with `name`, `samples_ns`, `load_ns`, `first_ns`, `steady`, `finite`: whether the answer to the
        random clips is), and `peak_mb`: the most memory this process held, None where the system does not say; with
        `energy_s` also `energy` (`energy.joules_per_query`).

    Raises:
        UserError: A target cannot be loaded or run, the clock went backwards, or there is no energy meter.
    """
    energy_meter = meter() if "energy_s" in job else None
    if isinstance(energy_meter, str):
        raise UserError(f"joules: {energy_meter}")
    rng = np.random.default_rng(job["seed"])
    open_sessions: dict[tuple[str, str], tuple[InferenceSession, int]] = {}
    loaded = [_load_target(target, job["threads"], job["queries"], rng, open_sessions) for target in job["targets"]]
    gc.collect()
    gc.disable()
    if job["queries"]:
        for target in loaded:
            target.steady = _warm_up_target(target)
        _time_in_turns(loaded, job["queries"], rng)
    counted = {"energy": _count_joules(loaded[0], energy_meter, job["energy_s"])} if energy_meter else {}
    for target in loaded:
        target.session.close()
        _check_clock(target)
    return {
        "targets": [
            {
                "name": t.name,
                "samples_ns": t.samples.tolist(),
                "load_ns": t.load_ns,
                "first_ns": t.first_ns,
                "steady": t.steady,
                "finite": t.finite,
            }
            for t in loaded
        ],
        "peak_mb": _read_peak_mb(),
        **counted,
    }


def _load_target(
    target: dict[str, Any],
    threads: int,
    queries: int,
    rng: np.random.Generator,
    sessions: dict[tuple[str, str], tuple[InferenceSession, int]] | None = None,
) -> _LoadedTarget:
    """Load a target and ask it once; one that differs from another in its batch alone shares that one's session."""
    key = target["path"], target["runtime"]
    sessions = {} if sessions is None else sessions
    if key not in sessions:
        target_runtime = find_runtime(target["runtime"])
        target_runtime.import_libraries()
        begin = time.perf_counter_ns()
        session = target_runtime.load(Path(target["path"]), threads=threads)
        sessions[key] = session, time.perf_counter_ns() - begin
    session, load_ns = sessions[key]
    batch = int(target.get("batch", 1))
    batch_session = session if session.input.shape[0] in (None, batch) else _SplitBatchSession(session, batch)
    clips = _random_clips(session, target["path"], batch, rng)
    begin = time.perf_counter_ns()
    logits = batch_session.run(clips)
    first_ns = time.perf_counter_ns() - begin
    samples, block = np.zeros(queries, np.int64), queries if target.get("stretch") else _BLOCK
    finite = bool(np.isfinite(logits).all())
    return _LoadedTarget(target["name"], batch_session, clips, load_ns, first_ns, samples, block=block, finite=finite)


class _SplitBatchSession:
    """A network of a fixed smaller batch (usually 1) answers a larger query part by part.

    Raises:
        UserError: The query is no multiple of the network's batch.
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
            raise UserError(f"a network that takes {self._step} clips at once cannot answer queries of {batch}")

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Answer all clips: see `runtimes.Session.run`."""
        run, step = self._session.run, self._step
        return np.concatenate([run(x[i : i + step]) for i in range(0, len(x), step)])


def _random_clips(session: InferenceSession, path: str, batch: int, rng: np.random.Generator) -> npt.NDArray[Any]:
    """Clips of random content: pixels are noise where the network takes uint8, normal numbers otherwise."""
    _, *rest = session.input.shape
    shape = [n for n in rest if n is not None]
    if len(shape) != len(rest):
        raise UserError(
            f"{path} takes {session.input.shape}; latency is measured with clips of fixed frames and size: "
            "export it with only the batch axis left open"
        )
    if session.input.dtype == "uint8":
        return rng.integers(0, 256, (batch, *shape), dtype=np.uint8)
    return rng.standard_normal((batch, *shape), dtype=np.float32).astype(session.input.dtype, copy=False)


def _warm_up_target(target: _LoadedTarget) -> bool:
    """Query until the medians of three windows in a row lie within 10 %; False when that never comes."""
    medians: list[float] = []
    begin = time.perf_counter_ns()
    window = np.zeros(_WINDOW, np.int64)
    while len(medians) < _MAX_WINDOWS and time.perf_counter_ns() - begin < _MAX_WARM_UP_NS:
        _time_queries(target, window)
        medians.append(float(np.median(window)))
        if len(medians) >= 3 and max(medians[-3:]) <= _STEADY_RATIO * min(medians[-3:]):
            return True
    return False


def _time_in_turns(loaded: list[_LoadedTarget], queries: int, rng: np.random.Generator) -> None:
    """Fill every target's samples, block by block; the order changes with every round."""
    while any(target.done < queries for target in loaded):
        for index in rng.permutation(len(loaded)):
            target = loaded[index]
            if target.done == queries:  # a stretch is over after its first turn
                continue
            target.session.run(target.clip)
            block = target.samples[target.done : target.done + target.block]
            _time_queries(target, block)
            target.done += len(block)


def _time_queries(target: _LoadedTarget, into: npt.NDArray[np.int64]) -> None:
    """Single stream: the next query starts when the last one is done."""
    run, clip, clock = target.session.run, target.clip, time.perf_counter_ns
    for i in range(len(into)):
        begin = clock()
        run(clip)
        into[i] = clock() - begin


def _count_joules(target: _LoadedTarget, meter: EnergyMeter, seconds: float) -> dict[str, Any]:
    _warm_up_target(target)
    try:
        query = partial(target.session.run, target.clip)
        return measure_joules_per_query(meter, query, seconds=seconds, idle_seconds=seconds / 5)
    finally:
        meter.close()


def _check_clock(target: _LoadedTarget) -> None:
    if target.samples.size and target.samples.min() <= 0:
        raise UserError(
            f"this machine's clock stood still or went backwards during a query of {target.name} "
            f"({target.samples.min()} ns); a virtual machine that was paused or moved does that: measure again"
        )


def _read_peak_mb() -> float | None:
    """VmHWM: it starts anew with the program, whereas getrusage remembers the parent's size."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((round(int(line.split()[1]) / 1024, 1) for line in lines if line.startswith("VmHWM:")), None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
