"""The job of a measuring process and its result, as JSON objects that a worker reads and writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from skd_bench.device.energy.meter import QueryEnergy

if TYPE_CHECKING:
    from typing import NotRequired  # Python 3.10, which a pack supports, does not have it


class JobTarget(TypedDict):
    """One target of a job.

    `batch` is the number of clips in a query, by default 1; with `streams`, they are divided between so many
    sessions that run at the same time, each clip by clip; `stretch` is True where all its queries run without a
    break, for at least `seconds` and after at least `warm_seconds` of warm-up.
    """

    name: str
    path: str
    runtime: str
    batch: NotRequired[int]
    streams: NotRequired[int]
    stretch: NotRequired[bool]
    seconds: NotRequired[float]
    warm_seconds: NotRequired[float]


class WorkerJob(TypedDict):
    """What one process measures.

    `queries` is the number of timed queries of each target; `seed` is that of the random clips and of the order of
    turns; with `energy_s`, the energy of the first target is measured for that many seconds; `gpu` is the GPU that the
    process sees.
    """

    targets: list[JobTarget]
    threads: int
    queries: int
    seed: int
    energy_s: NotRequired[float]
    gpu: NotRequired[str]


class TargetSamples(TypedDict):
    """The samples of one target in nanoseconds, in the order of the queries.

    `steady` is whether the warm-up settled; `finite` is whether the logits of the random clips are finite; `clocks`, of
    targets on a GPU, is a `GpuClocks` as a JSON object.
    """

    name: str
    samples_ns: list[int]
    load_ns: int
    first_ns: int
    steady: bool
    finite: NotRequired[bool]
    clocks: NotRequired[Mapping[str, Any]]


class FailedTarget(TypedDict):
    """A target on a GPU that could not be loaded or run, and why."""

    name: str
    reason: str


class WorkerResult(TypedDict):
    """What one process measured; with `failed` nothing else counts, because one failure can spoil a whole GPU.

    `peak_mb` is the peak memory of the process in MiB, and None where the system does not report it; `energy` is that
    of the first target where the job has `energy_s`.
    """

    targets: list[TargetSamples]
    peak_mb: float | None
    energy: NotRequired[QueryEnergy]
    failed: NotRequired[FailedTarget]
