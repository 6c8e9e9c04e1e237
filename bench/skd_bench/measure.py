"""Everything about a bundle that can be weighed on this machine, in one result."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from skd_bench.clips import decode_clip, normalise
from skd_bench.device import device_card, device_id, device_state
from skd_bench.energy import EnergyMeter, joules_per_query, open_meter
from skd_bench.errors import UserError
from skd_bench.latency import Latency, Progress, Target, measure_latency
from skd_bench.manifest import Artefact, Manifest, resolve
from skd_bench.predict import check_fits, load_artefact
from skd_bench.verify import verify

SCHEMA = 1
_DECODES = 5


def bench_bundle(
    bundle: Path | str,
    *,
    processes: int = 5,
    queries: int = 240,
    threads: int = 1,
    progress: Progress | None = None,
    measure: Callable[..., dict[str, Latency]] = measure_latency,
) -> dict[str, Any]:
    """Check a bundle's hashes, then measure every artefact of it on this machine.

    Args:
        bundle: The bundle's folder.
        processes: Fresh processes.
        queries: Timed queries for each artefact in each process.
        threads: Threads a query may use.
        progress: Called with (processes done, processes in all).
        measure: Called as `measure_latency` is; a wrapper of it can keep what is measured.

    Returns:
        What JSON can write: `schema`, `bundle`, `name`, `created_by`, `device` (the card), `device_id`, `after` (load
        and temperature), `threads`, `queries`, `contract` (frames, size), `artefacts` (each with `file`, `default`,
        `student`, `path`, `precision`, `runtime`, `bytes`, `facts`, `latency`, `energy`, `claimed` (the manifest's own
        numbers), `same_device` (whether those are comparable)), `clips` (decoding and preprocessing of the sample
        clips, milliseconds, or None), `notes`.

    Raises:
        UserError: The bundle is not as it was written, or cannot be run here.
    """
    bundle = Path(bundle)
    manifest = Manifest.load(bundle)
    if problems := verify(bundle):
        raise UserError(f"{bundle} is not as it was written: {'; '.join(problems)}. Copy it again from its source")
    facts = {a.file: _facts(bundle, manifest, a, threads) for a in manifest.artefacts}
    card = device_card()
    targets = [Target(a.file, resolve(bundle, a.file), a.runtime) for a in manifest.artefacts]
    latency = measure(targets, threads=threads, processes=processes, queries=queries, progress=progress)
    meter = open_meter()
    rows = []
    for artefact in manifest.artefacts:
        rows.append(
            {
                "file": artefact.file,
                "default": artefact.file == manifest.default,
                **{k: getattr(artefact, k) for k in ("student", "path", "precision", "runtime", "bytes")},
                "facts": facts[artefact.file],
                "latency": latency[artefact.file].to_json(),
                "energy": _energy(bundle, artefact, meter, threads),
                "claimed": artefact.measured,
                "same_device": artefact.measured.get("device") == device_id(card),
            }
        )
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
        "artefacts": rows,
        "clips": _clip_times(bundle, manifest),
        "notes": _notes(card, latency) + _no_decoder(manifest),
    }


def _facts(bundle: Path, manifest: Manifest, artefact: Artefact, threads: int) -> dict[str, object]:
    session = load_artefact(bundle, artefact, threads=threads)
    try:
        check_fits(manifest, session)
        return session.facts()
    finally:
        session.close()


def _energy(bundle: Path, artefact: Artefact, meter: EnergyMeter | str, threads: int) -> dict[str, Any]:
    """Joules for each clip, or the reason why they cannot be counted."""
    if isinstance(meter, str):
        return {"reason": meter}
    session = load_artefact(bundle, artefact, threads=threads)
    try:
        shape = [n or 1 for n in session.input.shape]
        x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        session.run(x)
        return joules_per_query(meter, lambda: session.run(x))
    finally:
        session.close()


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
            normalise(clip[np.newaxis], manifest.preprocess)
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


def _notes(card: dict[str, Any], latency: dict[str, Latency]) -> list[str]:
    """What a reader must know before believing the numbers."""
    notes = []
    cores, load = card["cores_usable"], card["load"]
    if load and cores and load[0] > cores / 2:
        notes.append(f"the machine was busy when measuring began: load {load[0]} on {cores} usable cores")
    restless = [name for name, figures in latency.items() if not figures.steady]
    if restless:
        notes.append(f"never became steady (windows within 10 %): {', '.join(restless)}")
    return notes
