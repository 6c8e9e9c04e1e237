"""A bundle, a run folder or a JSON file with measurements, read as rows of a comparison."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from skd_bench.benchmark.measurements import Measurements
from skd_bench.benchmark.results import load_samples
from skd_bench.bundle.manifest import MANIFEST, Manifest
from skd_bench.device.info import device_id
from skd_bench.errors import UserError
from skd_edge.report.comparison.schema import SCHEMA, Comparison, Row, Source
from skd_edge.report.schema import RESULT_FILE, Candidate, SweepPoint, load_result

Json = dict[str, Any]
_LARGEST = 1 << 28


@dataclass(frozen=True)
class Read:
    """What was found in one place.

    Attributes:
        sources: Usually one; a stored comparison has several.
        rows: Their files.
        samples: Raw milliseconds by row name, where they were kept.
        sweeps: Batch sweeps by row name.
    """

    sources: list[Source]
    rows: list[Row]
    samples: dict[str, list[float]] = field(default_factory=dict)
    sweeps: dict[str, list[SweepPoint]] = field(default_factory=dict)


def read_source(path: Path, label: str) -> Read:
    """Read whatever it is.

    Args:
        path: A bundle, a run folder, or a JSON file of `bench --json`, `accuracy --json`, a pack, or `report --json`.
        label: What it is called in the comparison.

    Raises:
        UserError: It is none of these, or is broken.
    """
    if path.is_dir():
        if (path / MANIFEST).is_file():
            return _bundle(path, label)
        if (path / RESULT_FILE).is_file():
            return _run(path, label)
        raise UserError(f"{path} is neither a bundle (no {MANIFEST}) nor a finished run (no {RESULT_FILE})")
    data = _json(path)
    if data.get("kind") == "comparison":
        return _comparison(data, path)
    if data.get("kind") == "accuracy":
        return _accuracy(data, path, label)
    if "artefacts" in data and "device" in data:
        return _bench(data, path, label, "bench")
    if "pack" in data and "measured" in data:
        return _pack(data, path, label)
    raise UserError(
        f"{path} holds no measurements; give a bundle, a run folder, or the JSON of `skd-edge bench --json`, of "
        "`skd-edge accuracy --json`, of a pack, or of `skd-edge report --json`"
    )


def _json(path: Path) -> Json:
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path} is larger than {_LARGEST >> 20} MiB; no measurements are")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no measurements but a {type(data).__name__}")
    return data


def _run(path: Path, label: str) -> Read:
    result = load_result(path)
    card = {k: v for k, v in result.device.items() if k != "id"}
    source = _source(label, path, "run", card, str(result.device.get("id") or ""), name=result.name)
    rows = [_row(source, c.name, c, _numbers(c.model_dump()), _of_candidate(c)) for c in result.candidates if c.trained]
    return Read([source], rows, dict(result.latency_samples), dict(result.batch_sweep))


def _of_candidate(c: Candidate) -> dict[str, tuple[float, float]]:
    return {name: i for name, i in (("accuracy", c.interval), ("p50_ms", c.p50_interval)) if i}


def _bundle(path: Path, label: str) -> Read:
    manifest = Manifest.load(path)
    first = manifest.artefact().measured
    source = Source(
        label=label, path=str(path), kind="bundle", name=manifest.name,
        device_id=str(first.get("device") or ""), device=str(first.get("device_name") or ""),
    )  # fmt: skip
    rows = []
    for a in manifest.artefacts:
        numbers = _numbers(a.measured) | {"bytes": float(a.bytes)}
        if (agreement := a.parity.get("agreement")) is not None:
            numbers["agreement"] = float(agreement)
        name = str(a.measured.get("name") or name_of(a.path, a.student, a.precision))
        rows.append(_row(source, name, a, numbers, _intervals(a.measured), str(a.measured.get("device") or "")))
    return Read([source], _apart(rows, [a.runtime for a in manifest.artefacts]))


def _bench(data: Json, path: Path, label: str, kind: Any) -> Read:
    source = _source(label, path, kind, data["device"], name=str(data.get("name") or ""))
    rows, sweeps, names = [], {}, {}
    for a in data["artefacts"]:
        latency = a.get("latency") or {}
        joules = (a.get("energy") or {}).get("joules_per_clip")
        claimed = {k: v for k, v in (a.get("claimed") or {}).items() if k in ("accuracy", "test_accuracy")}
        numbers = _numbers(claimed | latency | {"bytes": a.get("bytes"), "joules_per_clip": joules})
        name = name_of(a.get("path") or [], str(a.get("student") or a["file"]), str(a.get("precision") or ""))
        name = str((a.get("claimed") or {}).get("name") or name)
        own = str(a.get("name") or a["file"])  # "FILE @ RUNTIME" where it is not the file's own runtime
        name += " @ " + own.split(" @ ", 1)[1] if " @ " in own else ""
        names[own] = name
        rows.append(_row(source, name, a, numbers, _intervals(latency)))
        if points := _sweep(a.get("batches")):
            sweeps[name] = points
    kept = data.get("samples_ms") or (_kept_samples(path) if "samples" in data else {})
    samples = {
        names[own]: [float(s) for one in processes for s in one] for own, processes in kept.items() if own in names
    }
    return Read([source], rows, samples, sweeps)


def _kept_samples(path: Path) -> Mapping[str, Any]:
    """The raw samples beside a result; a result that came without its archive is compared without them."""
    try:
        return load_samples(path)
    except (OSError, ValueError, KeyError, AttributeError):
        return {}


def _sweep(points: Any) -> list[SweepPoint]:
    try:
        return [SweepPoint.model_validate(p) for p in points or []]
    except (ValidationError, TypeError):
        return []


def _accuracy(data: Json, path: Path, label: str) -> Read:
    source = _source(label, path, "accuracy", data["device"], name=str(data.get("name") or ""))
    rows = []
    for r in data["rows"]:
        top1 = r["accuracy"]["top1"]
        numbers = {"accuracy": top1["value"], **{k: r["accuracy"][k] for k in ("macro_f1", "ece")}, **r["cost"]}
        numbers |= {"agreement": (r.get("against_fp32") or {}).get("agreement")}
        name = name_of(r["path"], r["student"], r["precision"])
        name += f", {r['views']} views" if r["views"] > 1 else ""
        rows.append(_row(source, name, r, _numbers(numbers), {"accuracy": (top1["low"], top1["high"])}))
    return Read([source], rows)


def _pack(data: Json, path: Path, label: str) -> Read:
    read = Measurements.from_json(data, str(path))
    if read.bench is not None:
        return _bench(read.bench, path, label, "pack")
    source = _source(label, path, "pack", read.device)
    rows = [
        _row(source, m.latency.name, m.latency, _numbers(m.latency.to_json()), _intervals(m.latency.to_json()))
        for m in read.measured
    ]
    samples = {m.latency.name: [s for process in m.latency.samples_ms for s in process] for m in read.measured}
    return Read([source], rows, samples)


def _comparison(data: Json, path: Path) -> Read:
    schema = data.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise UserError(f"{path} has schema {schema} and this skd-edge reads up to {SCHEMA}; upgrade it")
    try:
        stored = Comparison.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{path} is no comparison of skd-edge: {error.errors()[0]['msg']}; store it again") from error
    return Read(stored.sources, stored.rows)


# ------------------------------------------------------------------------------------------------------- the pieces
def name_of(path: Iterable[str], student: str, precision: str) -> str:
    """A file's name as a run gives it: the cascade and the precision."""
    return f"{'>'.join(path) or student} {precision}".strip()


def _source(label: str, path: Path, kind: Any, card: Mapping[str, Any], known: str = "", *, name: str = "") -> Source:
    gpus = [str(g.get("name")) for g in card.get("gpus") or [] if isinstance(g, dict)]
    words = ", ".join([str(card.get("cpu") or card.get("cpu_model") or "unknown device"), *gpus])
    found = known or (device_id(dict(card)) if card else "")
    return Source(label=label, path=str(path), kind=kind, name=name, device_id=found, device=words, card=dict(card))


def _row(
    source: Source,
    name: str,
    it: Any,
    metrics: dict[str, float],
    intervals: Mapping[str, tuple[float, float]],
    device: str | None = None,
) -> Row:
    get: Callable[[str], Any] = it.get if isinstance(it, dict) else lambda key: getattr(it, key, "")
    return Row(
        source=source.label,
        name=name,
        student=str(get("student") or ""),
        precision=str(get("precision") or ""),
        device_id=source.device_id if device is None else device,
        metrics=metrics,
        intervals={k: v for k, v in intervals.items() if k in metrics},
    )


_NO_METRICS = {"n", "processes", "trained", "eligible", "on_front", "chosen", "steady", "accuracy_per_ms"}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """What is a number: a metric that nobody measured stays absent."""
    return {
        k: float(v)
        for k, v in values.items()
        if isinstance(v, int | float) and not isinstance(v, bool) and k not in _NO_METRICS and v == v
    }


def _intervals(values: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """`p50_interval` belongs to `p50_ms`, and a plain `interval` to the accuracy."""
    named = {k.replace("_interval", "_ms") if k != "interval" else "accuracy": v for k, v in values.items()}
    return {
        k: (float(v[0]), float(v[1]))
        for k, v in named.items()
        if isinstance(v, list | tuple) and len(v) == 2 and all(isinstance(x, int | float) for x in v)
    }


def _apart(rows: list[Row], runtimes: list[str]) -> list[Row]:
    """Files that differ in the runtime alone get its name too."""
    names = [row.name for row in rows]
    return [
        row.model_copy(update={"name": f"{row.name} {runtime}"}) if names.count(row.name) > 1 else row
        for row, runtime in zip(rows, runtimes, strict=True)
    ]
