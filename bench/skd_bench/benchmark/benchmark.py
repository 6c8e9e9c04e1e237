"""Benchmark a bundle on this machine: latency, loads, energy and clip preparation, in one result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from skd_bench.benchmark.latency import LatencyResult, ProgressCallback, measure_latency, measure_runnable
from skd_bench.benchmark.request import BenchmarkRequest
from skd_bench.benchmark.results import BenchmarkResult, BenchmarkRow, ClipTimes, UnmeasuredEnergy
from skd_bench.benchmark.scenarios import LoadResult, measure_loads
from skd_bench.benchmark.targets import BenchmarkTarget, find_benchmark_targets
from skd_bench.bundle.manifest import Manifest, resolve_bundle_path
from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.device.energy.meter import EnergyMeter, QueryEnergy, measure_joules_per_query, open_energy_meter
from skd_bench.device.info import DeviceInfo, DeviceState, device_id, read_device_info, read_device_state
from skd_bench.errors import UserError
from skd_bench.inference.predict import predict
from skd_bench.runtimes.base import make_random_clip
from skd_bench.video.clip import decode_clip, prepare_input

SCHEMA = 2  # Schema 2 added `name`, `split` and `scenarios` to the rows, and `not_run` and `samples_ms`.
_DECODE_REPEATS = 5


def benchmark_bundle(
    request: BenchmarkRequest,
    *,
    progress: ProgressCallback | None = None,
    measure: Callable[..., dict[str, LatencyResult]] = measure_latency,
) -> BenchmarkResult:
    """Check a bundle's hashes, then measure each of its artefacts on this machine.

    Args:
        request: What to measure. Its setting `energy` is not used: energy is always measured where that is possible.
        progress: Called with (processes finished, all processes), for each of the one to three passes.
        measure: Has the interface of `measure_latency`. A wrapper of it can store each measurement.

    Raises:
        UserError: A file of the bundle was changed or is missing, or the bundle cannot run here.
        UsageError: The request names an unknown scenario or runtime, or a number out of range.
    """
    bundle, extra, threads = request.bundle, request.extra.check_and_complete(), request.settings.threads
    manifest = Manifest.load(bundle)
    if problems := find_bundle_problems(bundle, manifest):
        raise UserError(f"{bundle} was changed after it was written: {'; '.join(problems)}. Copy the bundle again")
    rows, not_run = find_benchmark_targets(bundle, manifest, extra.runtimes, request.engines, threads)
    device_info = read_device_info()
    settings = replace(request.settings, energy=False)
    latency, failed = measure_runnable(
        [row.latency_target for row in rows], partial(measure, settings=settings, progress=progress)
    )
    not_run += [
        {"name": row.latency_target.name, "runtime": row.latency_target.runtime, "reason": failed[name]}
        for row in rows
        if (name := row.latency_target.name) in failed
    ]
    rows = [row for row in rows if row.latency_target.name not in failed]
    targets = [row.latency_target for row in rows]
    measure_load = partial(measure, settings=settings, progress=progress, memory=False)
    largest = {row.latency_target.name: row.largest_batch for row in rows}
    loads, load_latencies = measure_loads(targets, extra, latency, measure_load, largest)
    meter = open_energy_meter()
    size = manifest.preprocess
    return {
        "schema": SCHEMA,
        "bundle": str(bundle),
        "name": manifest.name,
        "created_by": manifest.created_by,
        "device": device_info,
        "device_id": device_id(device_info),
        "after": (after := read_device_state()),
        "threads": threads,
        "queries": settings.queries,
        "contract": {"frames": manifest.sampling.frames, "height": size.height, "width": size.width, "batch": 1},
        "artefacts": [
            _measure_row(
                row,
                latency[row.latency_target.name],
                loads[row.latency_target.name] if extra.load_count or extra.scenarios else None,
                meter,
                threads,
                device_id(device_info),
            )
            for row in rows
        ],
        "not_run": not_run,
        "clips": _measure_clip_times(bundle, manifest),
        "samples_ms": {name: figures.samples_ms for name, figures in {**latency, **load_latencies}.items()},
        "notes": _build_notes(device_info, latency)
        + _build_throttling_notes(device_info, after)
        + _build_decoder_notes(manifest)
        + _find_broken_answers(bundle, manifest, threads),
    }


def _measure_row(
    target: BenchmarkTarget,
    latency: LatencyResult,
    load: LoadResult | None,
    meter: EnergyMeter | str,
    threads: int,
    this_device: str,
) -> BenchmarkRow:
    info = target.file_info
    row: BenchmarkRow = {
        "name": target.latency_target.name,
        "file": info["file"],
        "default": info["default"],
        "student": info["student"],
        "path": info["path"],
        "precision": info["precision"],
        "runtime": info["runtime"],
        "bytes": info["bytes"],
        "facts": target.runtime_info,
        "claimed": target.manifest_metrics,
        "latency": latency.to_json(),
        "split": target.measure_breakdown(threads),
        "energy": _measure_energy(target, meter, threads),
        "same_device": target.manifest_metrics.get("device") == this_device,
    }
    if load is not None:
        row["scenarios"], row["batches"], row["bound"] = load["scenarios"], load["batches"], load["bound"]
    return row


def _measure_energy(row: BenchmarkTarget, meter: EnergyMeter | str, threads: int) -> QueryEnergy | UnmeasuredEnergy:
    """Joules per clip, or the reason why this machine cannot measure them."""
    if isinstance(meter, str):
        return {"reason": meter}
    with row.open_session(threads) as session:
        x = make_random_clip(session)
        session.run(x)
        return measure_joules_per_query(meter, lambda: session.run(x))


def _measure_clip_times(bundle: Path, manifest: Manifest) -> ClipTimes | None:
    """Median milliseconds of decoding and of preprocessing a sample clip; None without sample clips or without av."""
    if not manifest.samples or find_spec("av") is None:
        return None
    decode, prepare = [], []
    for sample in manifest.samples:
        path = resolve_bundle_path(bundle, sample.file)
        for _ in range(_DECODE_REPEATS):
            begin = time.perf_counter()
            clip = decode_clip(path, manifest.sampling, manifest.preprocess)
            decoded = time.perf_counter()
            prepare_input(clip[np.newaxis], manifest.preprocess, manifest.input_dtype)
            prepare.append(1000 * (time.perf_counter() - decoded))
            decode.append(1000 * (decoded - begin))
    return {
        "decode_ms": float(np.median(decode)),
        "preprocess_ms": float(np.median(prepare)),
        "samples": len(manifest.samples),
        "n": len(decode),
    }


def _build_decoder_notes(manifest: Manifest) -> list[str]:
    if manifest.samples and find_spec("av") is None:
        return ["decoding was not measured: av is not installed here; install it with: pip install av"]
    return []


def _find_broken_answers(bundle: Path, manifest: Manifest, threads: int) -> list[str]:
    """The error for each sample clip whose logits from the default file contain NaN or an infinity."""
    if not manifest.samples or find_spec("av") is None:
        return []
    answers = predict(
        bundle, [resolve_bundle_path(bundle, sample.file) for sample in manifest.samples], threads=threads
    )
    return [answer["error"] for answer in answers if "error" in answer]


def _build_throttling_notes(before: DeviceState, after: DeviceState) -> list[str]:
    """Warnings about reduced clocks: new throttling events of processor or board, and reasons that a GPU reports."""
    notes = []
    first, last = before["throttle"]["events"], after["throttle"]["events"]
    if first is not None and last is not None and last > first:
        notes.append(f"the machine throttled {last - first} times during the benchmark; measure again when it is cool")
    harmless = {"idle", "application clocks", "display clocks"}
    for number, state in enumerate(after["gpu_state"] or []):
        if reasons := [reason for reason in state["throttle"] or [] if reason not in harmless]:
            notes.append(f"GPU {number} ran at reduced clocks at the end of the benchmark: {', '.join(reasons)}")
    return notes


def _build_notes(device_info: DeviceInfo, latency: dict[str, LatencyResult]) -> list[str]:
    """Warnings about conditions that make the measurements unreliable."""
    notes = []
    cores, load = device_info["cores_usable"], device_info["load"]
    if load and cores and load[0] > cores / 2:
        notes.append(f"the machine was busy when the benchmark started: load {load[0]} on {cores} usable cores")
    unsteady = [name for name, figures in latency.items() if not figures.steady]
    if unsteady:
        notes.append(f"latency did not settle within 10 % during warm-up: {', '.join(unsteady)}")
    notes += [
        f"{name}: {figures.clocks.dropped} of {figures.clocks.blocks} blocks of queries were dropped "
        f"({'; '.join(figures.clocks.reasons)})"
        for name, figures in latency.items()
        if figures.clocks and figures.clocks.dropped
    ]
    if broken := [name for name, figures in latency.items() if not figures.finite]:
        names = ", ".join(broken)
        notes.append(f"the logits of random clips contain NaN or an infinity; do not use this latency: {names}")
    return notes
