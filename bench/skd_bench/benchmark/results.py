"""Benchmark results as files, and the plan that a dry run prints."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, final

import numpy as np

from skd_bench.benchmark.latency import LatencyFigures
from skd_bench.benchmark.request import BenchmarkRequest
from skd_bench.benchmark.scenarios import BatchRow, BoundResult, ScenarioResult
from skd_bench.benchmark.targets import FileInfo, QueryBreakdown, SkippedTarget
from skd_bench.bundle.manifest import Manifest
from skd_bench.device.energy.meter import QueryEnergy
from skd_bench.device.info import DeviceInfo, DeviceState
from skd_bench.errors import UsageError
from skd_bench.files import sha256_file, write_atomic, write_json
from skd_bench.untrusted.text import escape_name

if TYPE_CHECKING:
    from typing import NotRequired  # Python 3.10, which a pack supports, does not have it


class ClipShape(TypedDict):
    """The clips of a benchmark: frames, and pixels; `batch` is the number of clips in a query."""

    frames: int
    height: int
    width: int
    batch: int


class ClipTimes(TypedDict):
    """Median milliseconds of decoding and preprocessing, over `n` clips of `samples` sample clips."""

    decode_ms: float
    preprocess_ms: float
    samples: int
    n: int


@final
class UnmeasuredEnergy(TypedDict):
    """Why this machine cannot measure energy."""

    reason: str


class BenchmarkRow(FileInfo):
    """One file on one runtime, as a JSON object.

    `facts` is what the session reports; `claimed` contains the measurements in the manifest, as the bundle stores them;
    `split` has the parts of a query's time; `same_device` is whether the manifest's measurements are of this device;
    `scenarios`, `batches` and `bound` are present where further loads were requested.
    """

    name: str
    facts: dict[str, object]
    claimed: dict[str, Any]
    latency: LatencyFigures
    split: QueryBreakdown
    energy: QueryEnergy | UnmeasuredEnergy
    same_device: bool
    scenarios: NotRequired[dict[str, ScenarioResult]]
    batches: NotRequired[list[BatchRow]]
    bound: NotRequired[BoundResult | None]


class SampleIndex(TypedDict):
    """The archive of samples beside a result; `rows` maps its rows to the names of targets and loads."""

    file: str
    sha256: str
    rows: dict[str, str]


class BenchmarkResult(TypedDict):
    """The result of a benchmark, as a JSON object.

    `after` is the device state at the end; `clips` is None without sample clips or without av; `samples_ms` has all
    samples by the name of target and load, one list for each process, and is left out where the result is printed. A
    saved result has `samples` instead, and one of another machine also `host`.
    """

    schema: int
    bundle: str
    name: str
    created_by: str
    device: DeviceInfo
    device_id: str
    after: DeviceState
    threads: int
    queries: int
    contract: ClipShape
    artefacts: list[BenchmarkRow]
    not_run: list[SkippedTarget]
    clips: ClipTimes | None
    samples_ms: NotRequired[dict[str, list[list[float]]]]
    notes: list[str]
    samples: NotRequired[SampleIndex]
    host: NotRequired[str]


def without_samples(result: BenchmarkResult) -> BenchmarkResult:
    """The result of `skd_bench.benchmark.benchmark.benchmark_bundle` without its thousands of samples."""
    summary = result.copy()
    summary.pop("samples_ms", None)
    return summary


def save_result(result: BenchmarkResult, path: Path | str) -> Path:
    """Write a benchmark result as JSON, and its samples beside it as NAME.npz.

    The archive contains the arrays ``row<i>.process<j>``: float64 milliseconds in the order of the queries. `samples`
    in the JSON file maps each row to its name and contains the archive's name and sha256. Each file is written
    atomically.

    Args:
        result: See `skd_bench.benchmark.benchmark.benchmark_bundle`.
        path: The JSON file to write; it must end in .json.

    Returns:
        The path of the JSON file.

    Raises:
        UsageError: The path does not end in .json.
        UserError: A file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise UsageError(f"{path} must end in .json; the samples are written beside it as an .npz file")
    samples = result["samples_ms"]
    arrays: dict[str, Any] = {  # Any: numpy's stub reads the names as options of savez_compressed
        f"row{i}.process{j}": np.asarray(samples_of_process, np.float64)
        for i, processes in enumerate(samples.values())
        for j, samples_of_process in enumerate(processes)
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    archive = write_atomic(path.with_suffix(".npz"), buffer.getvalue())
    sample_index: SampleIndex = {
        "file": archive.name,
        "sha256": sha256_file(archive),
        "rows": {f"row{i}": name for i, name in enumerate(samples)},
    }
    return write_json(path, without_samples(result) | {"samples": sample_index})


def load_samples(path: Path | str) -> dict[str, list[np.ndarray[Any, np.dtype[np.float64]]]]:
    """Read all samples of a result that `save_result` wrote.

    Args:
        path: The JSON file. The archive must be in the same folder.

    Returns:
        Milliseconds by the row's name, one float64 array for each process.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file has another format. Pickled objects are refused, so no code of the archive runs.
        KeyError: The JSON object has no sample index.
    """
    import json

    path = Path(path)
    sample_index = json.loads(path.read_text("utf-8"))["samples"]
    samples: dict[str, list[np.ndarray[Any, np.dtype[np.float64]]]] = {}
    with np.load(path.with_name(Path(sample_index["file"]).name), allow_pickle=False) as archive:
        for row, name in sample_index["rows"].items():
            keys = (f"{row}.process{j}" for j in range(len(archive.files)))
            samples[name] = [archive[key] for key in keys if key in archive.files]
    return samples


def format_plan(request: BenchmarkRequest) -> str:
    """The plan of a benchmark as text: its rows, loads and number of clips. No network is loaded or run.

    Args:
        request: What would be measured.

    Raises:
        UserError: The folder does not contain a bundle.
        UsageError: The request names an unknown scenario or runtime, or a number out of range.
    """
    from skd_bench.runtimes import registered_runtimes

    manifest, extra = Manifest.load(request.bundle), request.extra.check_and_complete()
    processes, queries = request.settings.processes, request.settings.queries
    names = [escape_name(a.file) for a in manifest.artefacts]
    requested = [
        (f"{escape_name(a.file)} @ {r}", r) for a in manifest.artefacts for r in extra.runtimes if r != a.runtime
    ]
    known_runtimes = registered_runtimes()
    for name, runtime in requested:
        reason = known_runtimes[runtime].why_unavailable()
        names.append(name + (f": will be listed as not run ({reason})" if reason else ""))
    names += [f"{engine.name} @ its runtime, with and without CUDA graphs" for engine in request.engines]
    clips = extra.clips_per_query + 1
    offline = ", then offline with each row's best batch size" if "offline" in extra.scenarios else ""
    lines = [
        f"rows, each measured in {processes} fresh processes of {queries} queries, threads: {request.settings.threads}"
    ]
    lines += [f"  {name}" for name in names]
    lines.append(f"loads of each row: single-stream{''.join(f', batch {b}' for b in extra.batches)}")
    lines[-1] += (", multi-stream (8 clips)" if "multi-stream" in extra.scenarios else "") + offline
    lines[-1] += "".join(f", {n} streams at once ({8 * n} clips)" for n in extra.streams)
    lines.append(f"{processes * queries * clips} clips per row, without warm-up{offline and ' and offline'}")
    return "\n".join(lines)
