"""A bench's result as files, and what a bench would do, before it does it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from skd_bench.benchmark.scenarios import LoadScenarios
from skd_bench.bundle.manifest import Manifest
from skd_bench.errors import UsageError
from skd_bench.files import sha256_file, write_atomic, write_json


def without_samples(result: dict[str, Any]) -> dict[str, Any]:
    """The result of `measure.bench_bundle` without its samples, which are thousands of numbers."""
    return {key: value for key, value in result.items() if key != "samples_ms"}


def save_result(result: dict[str, Any], path: Path | str) -> Path:
    """Write the result as JSON, and every raw sample beside it as NAME.npz.

    The archive holds float64 milliseconds, ``row<i>.process<j>``, in the order of the queries; the JSON's `samples`
    says which row is which, with the archive's name and sha256. Both are written whole or not at all.

    Returns:
        The JSON file.

    Raises:
        UsageError: The path does not end in .json.
        UserError: A file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise UsageError(f"the result is written to a .json file, with the samples beside it as .npz; not to {path}")
    samples: dict[str, list[list[float]]] = result["samples_ms"]
    arrays: dict[str, Any] = {  # numpy's stub takes the names for its own options
        f"row{i}.process{j}": np.asarray(samples_of_process, np.float64)
        for i, processes in enumerate(samples.values())
        for j, samples_of_process in enumerate(processes)
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    archive = write_atomic(path.with_suffix(".npz"), buffer.getvalue())
    sample_index = {
        "file": archive.name,
        "sha256": sha256_file(archive),
        "rows": {f"row{i}": name for i, name in enumerate(samples)},
    }
    return write_json(path, without_samples(result) | {"samples": sample_index})


def load_samples(path: Path | str) -> dict[str, list[np.ndarray[Any, np.dtype[np.float64]]]]:
    """Every sample of a result that `save_result` wrote: milliseconds, an array for each process, by the row's name.

    Raises:
        OSError, ValueError, KeyError: The files are not there, or not what was written; nothing in them is run.
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


def format_plan(
    bundle: Path | str,
    extra: LoadScenarios,
    *,
    processes: int,
    queries: int,
    threads: int,
    engines: Sequence[Path] = (),
) -> str:
    """What a bench would measure, as text for people: nothing is loaded and nothing is run.

    Raises:
        UserError: There is no bundle.
        UsageError: What is asked cannot be.
    """
    from skd_bench.runtimes import registered_runtimes

    manifest, extra = Manifest.load(bundle), extra.check_and_complete()
    names = [a.file for a in manifest.artefacts]
    requested = [(f"{a.file} @ {r}", r) for a in manifest.artefacts for r in extra.runtimes if r != a.runtime]
    known_runtimes = registered_runtimes()
    for name, runtime in requested:
        reason = known_runtimes[runtime].why_unavailable()
        names.append(name + (f": will be listed as not run ({reason})" if reason else ""))
    names += [f"{engine.name} @ its runtime, with CUDA graphs and without" for engine in engines]
    clips = sum(extra.batches) + 8 * ("multi-stream" in extra.scenarios) + 1
    offline = ", then offline at each row's best batch" if "offline" in extra.scenarios else ""
    lines = [f"rows, each in {processes} fresh processes of {queries} queries, threads: {threads}"]
    lines += [f"  {name}" for name in names]
    lines.append(f"loads of each row: single-stream{''.join(f', batch {b}' for b in extra.batches)}")
    lines[-1] += (", multi-stream (8 clips)" if "multi-stream" in extra.scenarios else "") + offline
    lines.append(f"{processes * queries * clips} clips a row, beside warm-up{offline and ' and offline'}")
    return "\n".join(lines)
