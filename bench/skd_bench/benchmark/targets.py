"""The rows of a benchmark: each file of a bundle on its runtime and on further ones, and TensorRT engines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skd_bench.benchmark.latency import LatencyTarget
from skd_bench.bundle.manifest import Artefact, Manifest, resolve_bundle_path
from skd_bench.errors import UserError
from skd_bench.inference.predict import check_matches_manifest, load_artefact
from skd_bench.metrics.accuracy import softmax
from skd_bench.runtimes import InferenceSession, find_runtime, why_runtime_unavailable
from skd_bench.runtimes.base import TimedSession, make_random_clip
from skd_bench.runtimes.tensorrt.engine_file import read_engine_metadata

_REPEATS = 30  # queries of one breakdown; the first third is warm-up


@dataclass(frozen=True)
class BenchmarkTarget:
    """One file on one runtime.

    Attributes:
        latency_target: What is measured. Its name is the file's; on another runtime than the file's own it is
            "FILE @ RUNTIME".
        file_info: `file`, `default`, `student`, `path`, `precision`, `runtime`, `bytes`.
        manifest_metrics: The measurements in the manifest; empty on another runtime than the file's own.
        runtime_info: What the session reports (`InferenceSession.runtime_info`).
    """

    latency_target: LatencyTarget
    file_info: dict[str, Any]
    manifest_metrics: dict[str, Any]
    runtime_info: dict[str, object]

    def to_json(self) -> dict[str, Any]:
        """The row's description without measurements, as a JSON object."""
        return {
            "name": self.latency_target.name,
            **self.file_info,
            "facts": self.runtime_info,
            "claimed": self.manifest_metrics,
        }

    @contextmanager
    def open_session(self, threads: int) -> Iterator[InferenceSession]:
        """Load the file on its runtime; the session is closed at the end of the `with` block."""
        session = find_runtime(self.latency_target.runtime).load(Path(self.latency_target.path), threads=threads)
        try:
            yield session
        finally:
            session.close()

    def measure_breakdown(self, threads: int) -> dict[str, Any]:
        """Median milliseconds of the parts of a query.

        It runs in this process, which is not a fresh one: use the shares of the parts, not their sum.

        Args:
            threads: Threads that a query may use.

        Returns:
            `to_device_ms`, `compute_ms`, `from_device_ms` (both transfers are None for a runtime that does not copy the
            clip to a device) and `post_ms` (from the logits to the five best classes).
        """
        with self.open_session(threads) as session:
            x = make_random_clip(session)
            parts = [_time_query_parts(session, x) for _ in range(_REPEATS)][_REPEATS // 3 :]
        return {key: None if parts[0][key] is None else float(np.median([p[key] for p in parts])) for key in parts[0]}


def find_benchmark_targets(
    bundle: Path, manifest: Manifest, runtimes: Sequence[str], engines: Sequence[Path], threads: int
) -> tuple[list[BenchmarkTarget], list[dict[str, str]]]:
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
        The rows, and for each row that cannot be measured an object with `name`, `runtime` and `reason`.

    Raises:
        UserError: The default file, or a file whose runtime is available, cannot be loaded; or its session does not fit
            the manifest.
    """
    runnable, not_run = [], []
    for a in manifest.artefacts:
        reason = None if a.file == manifest.default else why_runtime_unavailable(a.runtime)
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
    session = load_artefact(bundle, artefact, threads=threads)
    try:
        check_matches_manifest(manifest, session)
        runtime_info = session.runtime_info()
    finally:
        session.close()
    target = LatencyTarget(artefact.file, resolve_bundle_path(bundle, artefact.file), artefact.runtime)
    return BenchmarkTarget(target, _describe_artefact(artefact, manifest), artefact.measured, runtime_info)


def _describe_artefact(artefact: Artefact, manifest: Manifest) -> dict[str, Any]:
    copied = {key: getattr(artefact, key) for key in ("student", "path", "precision", "runtime", "bytes")}
    return {"file": artefact.file, "default": artefact.file == manifest.default, **copied}


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
        file_info = _describe_artefact(artefact, manifest) | {"default": False, "runtime": name}
    else:
        file_info = {
            "file": path.name,
            "default": False,
            "student": "",
            "path": [],
            "precision": "engine",
            "runtime": name,
        }
    row = BenchmarkTarget(LatencyTarget(f"{file_info['file']} @ {name}", path, name), file_info, {}, {})
    with row.open_session(threads) as session:
        check_matches_manifest(manifest, session)
        return BenchmarkTarget(
            row.latency_target, file_info | {"bytes": path.stat().st_size}, {}, session.runtime_info()
        )


def _list_engine_runtimes(path: Path) -> list[str]:
    """The names of the engine's runtime with CUDA graphs and without."""
    name = read_engine_metadata(path).runtime
    return [name, f"{name}-nograph"]


def _time_query_parts(session: InferenceSession, x: npt.NDArray[Any]) -> dict[str, float | None]:
    parts: dict[str, float | None] = {"to_device_ms": None, "compute_ms": 0.0, "from_device_ms": None}
    begin = time.perf_counter()
    logits = session.run(x)
    parts["compute_ms"] = 1000 * (time.perf_counter() - begin)
    if isinstance(session, TimedSession):
        parts |= session.time_breakdown(x)
    begin = time.perf_counter()
    np.argsort(-softmax(logits)[0], kind="stable")[:5]
    return parts | {"post_ms": 1000 * (time.perf_counter() - begin)}
