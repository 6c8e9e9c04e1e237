"""Everything about a bundle that can be weighed on this machine, in one result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from skd_bench.benchmark.latency import Latency, Progress, measure_latency
from skd_bench.benchmark.scenarios import Extra, measure_loads
from skd_bench.benchmark.targets import Row, random_clip, rows_of
from skd_bench.bundle.manifest import Manifest, resolve
from skd_bench.bundle.verify import verify
from skd_bench.device.energy.meter import EnergyMeter, joules_per_query, open_meter
from skd_bench.device.info import device_card, device_id, device_state
from skd_bench.errors import UserError
from skd_bench.inference.predict import predict
from skd_bench.video.clip import as_input, decode_clip

SCHEMA = 2  # 2: rows have a name, a split, scenarios; not_run; samples
_DECODES = 5


def bench_bundle(
    bundle: Path | str,
    *,
    processes: int = 5,
    queries: int = 240,
    threads: int = 1,
    progress: Progress | None = None,
    measure: Callable[..., dict[str, Latency]] = measure_latency,
    extra: Extra | None = None,
    engines: Sequence[Path] = (),
) -> dict[str, Any]:
    """Check a bundle's hashes, then measure every artefact of it on this machine.

    Args:
        bundle: The bundle's folder.
        processes: Fresh processes.
        queries: Timed queries for each artefact in each process.
        threads: Threads a query may use.
        progress: Called with (processes done, processes in all), for each of the up to three passes.
        measure: Called as `measure_latency` is; a wrapper of it can keep what is measured.
        extra: Further scenarios, batches and runtimes.
        engines: Engines that `skd-edge build` made, measured beside the bundle's files, with CUDA graphs and without.

    Returns:
        What JSON can write: `schema`, `bundle`, `name`, `created_by`, `device` (the card), `device_id`, `after` (load
        and temperature), `threads`, `queries`, `contract` (frames, size), `artefacts` (each with `name`, `file`,
        `default`, `student`, `path`, `precision`, `runtime`, `bytes`, `facts`, `latency`, `split` (where a query's time
        goes), `energy`, `claimed` (the manifest's own numbers), `same_device` (whether those are comparable), and where
        asked `scenarios`, `batches`, `bound`), `not_run` (`name`, `runtime`, `reason`: what was asked and cannot run
        here), `clips` (decoding and preprocessing of the sample clips, milliseconds, or None), `samples_ms` (every
        sample: a list for each process, by name), `notes`.

    Raises:
        UserError: The bundle is not as it was written, or cannot be run here.
    """
    bundle, extra = Path(bundle), (extra or Extra()).checked()
    manifest = Manifest.load(bundle)
    if problems := verify(bundle):
        raise UserError(f"{bundle} is not as it was written: {'; '.join(problems)}. Copy it again from its source")
    rows, not_run = rows_of(bundle, manifest, extra.runtimes, engines, threads)
    card = device_card()
    targets = [row.target for row in rows]
    how = {"threads": threads, "processes": processes, "queries": queries, "progress": progress}
    latency = measure(targets, **how)
    loads, more = measure_loads(targets, extra, latency, partial(measure, **how, memory=False))
    meter = open_meter()
    size = manifest.preprocess
    return {
        "schema": SCHEMA,
        "bundle": str(bundle),
        "name": manifest.name,
        "created_by": manifest.created_by,
        "device": card,
        "device_id": device_id(card),
        "after": device_state(),
        "threads": threads,
        "queries": queries,
        "contract": {"frames": manifest.sampling.frames, "height": size.height, "width": size.width, "batch": 1},
        "artefacts": [
            {
                **row.to_json(),
                "latency": latency[row.target.name].to_json(),
                "split": row.split(threads),
                "energy": _energy(row, meter, threads),
                "same_device": row.claimed.get("device") == device_id(card),
                **(loads[row.target.name] if extra.loads or extra.scenarios else {}),
            }
            for row in rows
        ],
        "not_run": not_run,
        "clips": _clip_times(bundle, manifest),
        "samples_ms": {name: figures.samples_ms for name, figures in {**latency, **more}.items()},
        "notes": _notes(card, latency) + _no_decoder(manifest) + _broken_answers(bundle, manifest, threads),
    }


def _energy(row: Row, meter: EnergyMeter | str, threads: int) -> dict[str, Any]:
    """Joules for each clip, or the reason why they cannot be counted."""
    if isinstance(meter, str):
        return {"reason": meter}
    with row.session(threads) as session:
        x = random_clip(session)
        session.run(x)
        return joules_per_query(meter, lambda: session.run(x))


def _clip_times(bundle: Path, manifest: Manifest) -> dict[str, Any] | None:
    """Median milliseconds from a file to frames, and from frames to the network's input; None without samples or av."""
    if not manifest.samples or find_spec("av") is None:
        return None
    decode, prepare = [], []
    for sample in manifest.samples:
        path = resolve(bundle, sample.file)
        for _ in range(_DECODES):
            begin = time.perf_counter()
            clip = decode_clip(path, manifest.sampling, manifest.preprocess)
            decoded = time.perf_counter()
            as_input(clip[np.newaxis], manifest.preprocess, manifest.input_dtype)
            prepare.append(1000 * (time.perf_counter() - decoded))
            decode.append(1000 * (decoded - begin))
    return {
        "decode_ms": float(np.median(decode)),
        "preprocess_ms": float(np.median(prepare)),
        "samples": len(manifest.samples),
        "n": len(decode),
    }


def _no_decoder(manifest: Manifest) -> list[str]:
    if manifest.samples and find_spec("av") is None:
        return ["decoding was not measured: av is not installed here; pip install av"]
    return []


def _broken_answers(bundle: Path, manifest: Manifest, threads: int) -> list[str]:
    """Sample clips to which the default file answers with NaN or an infinity, by name."""
    if not manifest.samples or find_spec("av") is None:
        return []
    answers = predict(bundle, [resolve(bundle, sample.file) for sample in manifest.samples], threads=threads)
    return [answer["error"] for answer in answers if "error" in answer]


def _notes(card: dict[str, Any], latency: dict[str, Latency]) -> list[str]:
    """What a reader must know before believing the numbers."""
    notes = []
    cores, load = card["cores_usable"], card["load"]
    if load and cores and load[0] > cores / 2:
        notes.append(f"the machine was busy when measuring began: load {load[0]} on {cores} usable cores")
    restless = [name for name, figures in latency.items() if not figures.steady]
    if restless:
        notes.append(f"never became steady (windows within 10 %): {', '.join(restless)}")
    if broken := [name for name, figures in latency.items() if not figures.finite]:
        notes.append(f"answers NaN or an infinity to random clips; its milliseconds mean nothing: {', '.join(broken)}")
    return notes
