"""The rows of a benchmark: each file of a bundle on its runtime and on further ones, and TensorRT engines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from skd_bench.benchmark.latency import LatencyTarget
from skd_bench.bundle.manifest import Artefact, Manifest, resolve_bundle_path
from skd_bench.errors import UserError
from skd_bench.inference.predict import check_matches_manifest, find_runnable_file
from skd_bench.metrics.accuracy import softmax
from skd_bench.runtimes import InferenceSession, find_runtime, why_runtime_unavailable
from skd_bench.runtimes.base import TimedSession, make_random_clip
from skd_bench.runtimes.tensorrt.engine_file import read_engine_metadata

_REPEATS = 30  # queries of one breakdown; the first third is warm-up


class FileInfo(TypedDict):
    """The file of a row, as a JSON object; `path` is the cascade of the artefact, and empty for an engine."""

    file: str
    default: bool
    student: str
    path: list[str]
    precision: str
    runtime: str
    bytes: int


class SkippedTarget(TypedDict):
    """A row that cannot be measured on this machine, as a JSON object."""

    name: str
    runtime: str
    reason: str


class QueryBreakdown(TypedDict):
    """Milliseconds of the parts of a query, as a JSON object.

    Both transfers are None for a runtime that does not copy the clip to a device. `post_ms` is from the logits to the
    five best classes.
    """

    to_device_ms: float | None
    compute_ms: float
    from_device_ms: float | None
    post_ms: float


@dataclass(frozen=True)
class BenchmarkTarget:
    """One file on one runtime.

    Attributes:
        latency_target: What is measured. Its name is the file's; on another runtime than the file's own it is
            "FILE @ RUNTIME".
        file_info: The file.
        manifest_metrics: The measurements in the manifest (`Artefact.measured`); empty on another runtime than the
            file's own.
        runtime_info: What the session reports (`InferenceSession.runtime_info`).
    """

    latency_target: LatencyTarget
    file_info: FileInfo
    manifest_metrics: dict[str, Any]
    runtime_info: dict[str, object]

    @property
    def largest_batch(self) -> int | None:
        """The largest batch that an engine was compiled for; None where any batch can run."""
        batches = self.runtime_info.get("batches")
        return int(batches[2]) if isinstance(batches, list) else None

    @contextmanager
    def open_session(self, threads: int) -> Iterator[InferenceSession]:
        """Load the file on its runtime; the session is closed at the end of the `with` block."""
        with _open_session(self.latency_target, threads) as session:
            yield session

    def measure_breakdown(self, threads: int) -> QueryBreakdown:
        """Median milliseconds of the parts of a query.

        It runs in this process, which is not a fresh one: use the shares of the parts, not their sum.

        Args:
            threads: Threads that a query may use.
        """
        with self.open_session(threads) as session:
            x = make_random_clip(session)
            parts = [_time_query_parts(session, x) for _ in range(_REPEATS)][_REPEATS // 3 :]
        return {
            "to_device_ms": _median_or_none([p["to_device_ms"] for p in parts]),
            "compute_ms": float(np.median([p["compute_ms"] for p in parts])),
            "from_device_ms": _median_or_none([p["from_device_ms"] for p in parts]),
            "post_ms": float(np.median([p["post_ms"] for p in parts])),
        }


def find_benchmark_targets(
    bundle: Path, manifest: Manifest, runtimes: Sequence[str], engines: Sequence[Path], threads: int
) -> tuple[list[BenchmarkTarget], list[SkippedTarget]]:
    """Find the rows that can be measured on this machine.

    The bundle's default file must run on its runtime. Another file whose runtime is not installed, and an additional
    row that cannot run, are listed with their reason instead.

    Args:
        bundle: The bundle's folder.
        manifest: Its manifest.
        runtimes: Runtimes to also run each file on.
        engines: TensorRT engines to measure too, each with and without CUDA graphs.
        threads: Threads that a query may use.

    Returns:
        The rows, and those that cannot be measured.

    Raises:
        UserError: The default file, or a file whose runtime is available, cannot be loaded; or its session does not fit
            the manifest.
    """
    runnable: list[Artefact] = []
    not_run: list[SkippedTarget] = []
    for a in manifest.artefacts:
        reason = None if a.file == manifest.default else why_runtime_unavailable(a.runtime, a.precision)
        if reason is None:
            runnable.append(a)
        else:
            not_run.append({"name": a.file, "runtime": a.runtime, "reason": reason})
    rows = [_make_bundle_target(bundle, manifest, a, threads) for a in runnable]
    requested: list[tuple[Path, str, Artefact | None]] = [
        (resolve_bundle_path(bundle, a.file), name, a)
        for a in manifest.artefacts
        for name in runtimes
        if name != a.runtime
    ]
    requested += [(path, name, None) for path in engines for name in _list_engine_runtimes(path)]
    for path, name, artefact in requested:
        try:
            rows.append(_make_extra_target(manifest, path, name, artefact, threads))
        except UserError as error:
            title = artefact.file if artefact else path.name
            not_run.append({"name": f"{title} @ {name}", "runtime": name, "reason": str(error)})
    return rows, not_run


def _make_bundle_target(bundle: Path, manifest: Manifest, artefact: Artefact, threads: int) -> BenchmarkTarget:
    target = LatencyTarget(artefact.file, find_runnable_file(bundle, artefact), artefact.runtime)
    runtime_info = _describe_session(manifest, target, threads)
    return BenchmarkTarget(target, _describe_artefact(artefact, manifest), artefact.measured, runtime_info)


def _describe_artefact(artefact: Artefact, manifest: Manifest) -> FileInfo:
    return {
        "file": artefact.file,
        "default": artefact.file == manifest.default,
        "student": artefact.student,
        "path": artefact.path,
        "precision": artefact.precision,
        "runtime": artefact.runtime,
        "bytes": artefact.bytes,
    }


def _make_extra_target(
    manifest: Manifest, path: Path, name: str, artefact: Artefact | None, threads: int
) -> BenchmarkTarget:
    """The row of a file on another runtime than its own, or of an engine (`artefact` is then None)."""
    if artefact is not None:
        find_runtime(name)  # a missing runtime is reported before an unfit file
        if name.startswith("tensorrt"):
            raise UserError(
                f"{name} runs engines, not ONNX files; build one with `skd-edge build BUNDLE`, then give it to --engine"
            )
        if path.suffix == ".tflite" or name == "litert":
            raise UserError(
                f"{name} cannot run {path.name}: LiteRT runs .tflite files, and the other runtimes run ONNX files"
            )
    target = LatencyTarget(f"{artefact.file if artefact else path.name} @ {name}", path, name)
    runtime_info = _describe_session(manifest, target, threads)
    precision = read_engine_metadata(path).precision if artefact is None else artefact.precision
    file_info: FileInfo = {
        "file": artefact.file if artefact else path.name,
        "default": False,
        "student": artefact.student if artefact else "",
        "path": artefact.path if artefact else [],
        "precision": precision or "engine",
        "runtime": name,
        "bytes": path.stat().st_size,
    }
    return BenchmarkTarget(target, file_info, {}, runtime_info)


def _describe_session(manifest: Manifest, target: LatencyTarget, threads: int) -> dict[str, object]:
    """Check that a file fits the manifest, run one clip, and return what its session reports.

    An engine describes its layers only after a query.
    """
    with _open_session(target, threads) as session:
        check_matches_manifest(manifest, session)
        session.run(make_random_clip(session))
        return session.runtime_info()


@contextmanager
def _open_session(target: LatencyTarget, threads: int) -> Iterator[InferenceSession]:
    session = find_runtime(target.runtime).load(Path(target.path), threads=threads)
    try:
        yield session
    finally:
        session.close()


def _list_engine_runtimes(path: Path) -> list[str]:
    """The names of the engine's runtime with CUDA graphs and without."""
    name = read_engine_metadata(path).runtime
    return [name, f"{name}-nograph"]


def _time_query_parts(session: InferenceSession, x: npt.NDArray[Any]) -> QueryBreakdown:
    begin = time.perf_counter()
    logits = session.run(x)
    compute_ms = 1000 * (time.perf_counter() - begin)
    to_device_ms = from_device_ms = None
    if isinstance(session, TimedSession):
        times = session.time_breakdown(x)
        to_device_ms, compute_ms, from_device_ms = times["to_device_ms"], times["compute_ms"], times["from_device_ms"]
    begin = time.perf_counter()
    np.argsort(-softmax(logits)[0], kind="stable")[:5]
    return {
        "to_device_ms": to_device_ms,
        "compute_ms": compute_ms,
        "from_device_ms": from_device_ms,
        "post_ms": 1000 * (time.perf_counter() - begin),
    }


def _median_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None
