"""Benchmark a bundle on this machine: latency, loads, energy and clip preparation, in one result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from skd_bench.benchmark.latency import LatencyResult, ProgressCallback, measure_latency
from skd_bench.benchmark.scenarios import LoadScenarios, measure_loads
from skd_bench.benchmark.targets import BenchmarkTarget, find_benchmark_targets
from skd_bench.bundle.manifest import Manifest, resolve_bundle_path
from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.device.energy.meter import EnergyMeter, measure_joules_per_query, open_energy_meter
from skd_bench.device.info import device_id, read_device_info, read_device_state
from skd_bench.errors import UserError
from skd_bench.inference.predict import predict
from skd_bench.runtimes.base import make_random_clip
from skd_bench.video.clip import decode_clip, prepare_input

SCHEMA = 2  # Schema 2 added `name`, `split` and `scenarios` to the rows, and `not_run` and `samples_ms`.
_DECODE_REPEATS = 5


def benchmark_bundle(
    bundle: Path | str,
    *,
    processes: int = 5,
    queries: int = 240,
    threads: int = 1,
    progress: ProgressCallback | None = None,
    measure: Callable[..., dict[str, LatencyResult]] = measure_latency,
    extra: LoadScenarios | None = None,
    engines: Sequence[Path] = (),
) -> dict[str, Any]:
    """Check a bundle's hashes, then measure each of its artefacts on this machine.

    Args:
        bundle: The bundle's folder.
        processes: Number of fresh processes, at least 1.
        queries: Timed queries of each artefact in each process, at least 1.
        threads: Threads that a query may use, at least 1.
        progress: Called with (processes finished, all processes), for each of the one to three passes.
        measure: Has the interface of `measure_latency`. A wrapper of it can store each measurement.
        extra: Further scenarios, batch sizes and runtimes.
        engines: Engines built by `skd-edge build`. They are measured beside the bundle's files, with CUDA graphs and
            without.

    Returns:
        A JSON object: `schema`, `bundle`, `name`, `created_by`, `device` (the device info), `device_id`, `after` (the
        device state at the end), `threads`, `queries`, `contract` (frames, size), `artefacts`, `not_run` (requested
        rows that cannot run here: `name`, `runtime`, `reason`), `clips` (median milliseconds of decoding and
        preprocessing the sample clips, or None), `samples_ms` (all samples by row name, one list for each process) and
        `notes`. Each row of `artefacts` has `name`, `file`, `default`, `student`, `path`, `precision`, `runtime`,
        `bytes`, `facts` (what the session reports), `latency`, `split` (the parts of a query's time), `energy`,
        `claimed` (the manifest's own measurements), `same_device` (whether these are of this device) and, where
        requested, `scenarios`, `batches` and `bound`.

    Raises:
        UserError: A file of the bundle was changed or is missing, or the bundle cannot run here.
        UsageError: `extra` names an unknown scenario or runtime, or a number out of range.
    """
    bundle, extra = Path(bundle), (extra or LoadScenarios()).check_and_complete()
    manifest = Manifest.load(bundle)
    if problems := find_bundle_problems(bundle):
        raise UserError(f"{bundle} was changed after it was written: {'; '.join(problems)}. Copy the bundle again")
    rows, not_run = find_benchmark_targets(bundle, manifest, extra.runtimes, engines, threads)
    device_info = read_device_info()
    targets = [row.latency_target for row in rows]
    measure_options = {"threads": threads, "processes": processes, "queries": queries, "progress": progress}
    latency = measure(targets, **measure_options)
    loads, load_latencies = measure_loads(targets, extra, latency, partial(measure, **measure_options, memory=False))
    meter = open_energy_meter()
    size = manifest.preprocess
    return {
        "schema": SCHEMA,
        "bundle": str(bundle),
        "name": manifest.name,
        "created_by": manifest.created_by,
        "device": device_info,
        "device_id": device_id(device_info),
        "after": read_device_state(),
        "threads": threads,
        "queries": queries,
        "contract": {"frames": manifest.sampling.frames, "height": size.height, "width": size.width, "batch": 1},
        "artefacts": [
            {
                **row.to_json(),
                "latency": latency[row.latency_target.name].to_json(),
                "split": row.measure_breakdown(threads),
                "energy": _measure_energy(row, meter, threads),
                "same_device": row.manifest_metrics.get("device") == device_id(device_info),
                **(loads[row.latency_target.name] if extra.load_count or extra.scenarios else {}),
            }
            for row in rows
        ],
        "not_run": not_run,
        "clips": _measure_clip_times(bundle, manifest),
        "samples_ms": {name: figures.samples_ms for name, figures in {**latency, **load_latencies}.items()},
        "notes": _build_notes(device_info, latency)
        + _build_decoder_notes(manifest)
        + _find_broken_answers(bundle, manifest, threads),
    }


def _measure_energy(row: BenchmarkTarget, meter: EnergyMeter | str, threads: int) -> dict[str, Any]:
    """Joules per clip, or the reason why this machine cannot measure them."""
    if isinstance(meter, str):
        return {"reason": meter}
    with row.open_session(threads) as session:
        x = make_random_clip(session)
        session.run(x)
        return measure_joules_per_query(meter, lambda: session.run(x))


def _measure_clip_times(bundle: Path, manifest: Manifest) -> dict[str, Any] | None:
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


def _build_notes(device_info: dict[str, Any], latency: dict[str, LatencyResult]) -> list[str]:
    """Warnings about conditions that make the measurements unreliable."""
    notes = []
    cores, load = device_info["cores_usable"], device_info["load"]
    if load and cores and load[0] > cores / 2:
        notes.append(f"the machine was busy when the benchmark started: load {load[0]} on {cores} usable cores")
    unsteady = [name for name, figures in latency.items() if not figures.steady]
    if unsteady:
        notes.append(f"latency did not settle within 10 % during warm-up: {', '.join(unsteady)}")
    if broken := [name for name, figures in latency.items() if not figures.finite]:
        names = ", ".join(broken)
        notes.append(f"the logits of random clips contain NaN or an infinity; do not use this latency: {names}")
    return notes
