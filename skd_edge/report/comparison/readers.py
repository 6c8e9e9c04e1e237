"""Reads the sources of a comparison: a bundle, a run folder, or a JSON file with measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from skd_bench.benchmark.measurements import DeviceMeasurements
from skd_bench.benchmark.results import load_samples
from skd_bench.bundle.manifest import MANIFEST_FILE, Manifest
from skd_bench.device.info import device_id
from skd_bench.errors import UserError
from skd_bench.untrusted.json_file import read_json
from skd_edge.report.comparison.schema import SCHEMA_VERSION, Comparison, ComparisonRow, ComparisonSource
from skd_edge.report.crossval.schema import CROSSVAL_FILE
from skd_edge.report.schema import REPORT_FILE, CandidateReport, SweepPoint, load_report

_MAX_JSON_BYTES = 1 << 28


@dataclass(frozen=True)
class LoadedSource:
    """The content of one path.

    Attributes:
        sources: Usually one source; a stored comparison may have several.
        rows: The rows of the sources, one for each file.
        samples: Latency samples in milliseconds by row name, where they were stored.
        sweeps: Batch sweeps by row name, where they were measured.
    """

    sources: list[ComparisonSource]
    rows: list[ComparisonRow]
    samples: dict[str, list[float]] = field(default_factory=dict)
    sweeps: dict[str, list[SweepPoint]] = field(default_factory=dict)


def read_source(path: Path, label: str) -> LoadedSource:
    """Read a source; its kind is recognised from its content.

    Args:
        path: A bundle, a run folder, or a JSON file of `bench --json`, `accuracy --json`, a pack, or `report --json`.
        label: Name of the source in the comparison.

    Returns:
        The content.

    Raises:
        UserError: It is not of any of these kinds, or it is damaged.
    """
    try:
        return _read_folder(path, label) if path.is_dir() else _parse_measurements(_load_json(path), path, label)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(f"{path} has parts that skd-edge does not write ({reason}); write the file again") from error


def _read_folder(path: Path, label: str) -> LoadedSource:
    if (path / MANIFEST_FILE).is_file():
        return _load_bundle(path, label)
    if (path / REPORT_FILE).is_file():
        return _load_run(path, label)
    if (path / CROSSVAL_FILE).is_file():
        raise UserError(
            f"{path} is a cross-validation: its figures are in {path / 'crossval.md'}; give it alone to "
            f"write them again, or compare its folds ({path / 'folds'}/*)"
        )
    raise UserError(
        f"{path} is neither a bundle (it has no {MANIFEST_FILE}) nor a finished run (it has no {REPORT_FILE})"
    )


def _parse_measurements(data: dict[str, Any], path: Path, label: str) -> LoadedSource:
    if data.get("kind") == "comparison":
        return _parse_comparison(data, path)
    if data.get("kind") == "accuracy":
        return _parse_accuracy(data, path, label)
    if "artefacts" in data and "device" in data:
        return _parse_benchmark(data, path, label, "bench")
    if "pack" in data and "measured" in data:
        return _parse_pack(data, path, label)
    raise UserError(
        f"{path} holds no measurements; give a bundle, a run folder, or the JSON of `skd-edge bench --json`, of "
        "`skd-edge accuracy --json`, of a pack, or of `skd-edge report --json`"
    )


def _load_json(path: Path) -> dict[str, Any]:
    try:
        data = read_json(path, max_bytes=_MAX_JSON_BYTES)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds a {type(data).__name__}, not measurements")
    return data


def _load_run(path: Path, label: str) -> LoadedSource:
    report = load_report(path)
    device_info = {k: v for k, v in report.device.items() if k != "id"}
    source = _make_source(label, path, "run", device_info, str(report.device.get("id") or ""), name=report.name)
    rows = [
        _make_row(source, c.name, c, _select_metrics(c.model_dump()), _candidate_intervals(c))
        for c in report.candidates
        if c.trained
    ]
    return LoadedSource([source], rows, dict(report.latency_samples), dict(report.batch_sweep))


def _candidate_intervals(c: CandidateReport) -> dict[str, tuple[float, float]]:
    return {name: i for name, i in (("accuracy", c.interval), ("p50_ms", c.p50_interval)) if i}


def _load_bundle(path: Path, label: str) -> LoadedSource:
    manifest = Manifest.load(path)
    first = manifest.find_artefact().measured
    source = ComparisonSource(
        label=label,
        path=str(path),
        kind="bundle",
        name=manifest.name,
        device_id=str(first.get("device") or ""),
        device=str(first.get("device_name") or ""),
    )
    rows = []
    for a in manifest.artefacts:
        numbers = _select_metrics(a.measured) | {"bytes": float(a.bytes)}
        if (agreement := a.parity.get("agreement")) is not None:
            numbers["agreement"] = float(agreement)
        name = str(a.measured.get("name") or format_candidate_name(a.path, a.student, a.precision))
        rows.append(
            _make_row(source, name, a, numbers, _parse_intervals(a.measured), str(a.measured.get("device") or ""))
        )
    return LoadedSource([source], _add_runtime_to_duplicate_names(rows, [a.runtime for a in manifest.artefacts]))


def _parse_benchmark(data: Mapping[str, Any], path: Path, label: str, kind: Any) -> LoadedSource:
    source = _make_source(label, path, kind, data["device"], name=str(data.get("name") or ""))
    rows, sweeps, names = [], {}, {}
    for a in data["artefacts"]:
        latency = a.get("latency") or {}
        joules = (a.get("energy") or {}).get("joules_per_clip")
        manifest_metrics = {k: v for k, v in (a.get("claimed") or {}).items() if k in ("accuracy", "test_accuracy")}
        numbers = _select_metrics(manifest_metrics | latency | {"bytes": a.get("bytes"), "joules_per_clip": joules})
        name = format_candidate_name(
            a.get("path") or [], str(a.get("student") or a["file"]), str(a.get("precision") or "")
        )
        name = str((a.get("claimed") or {}).get("name") or name)
        target_name = str(a.get("name") or a["file"])  # "FILE @ RUNTIME" where it is not the file's own runtime
        name += " @ " + target_name.split(" @ ", 1)[1] if " @ " in target_name else ""
        names[target_name] = name
        rows.append(_make_row(source, name, a, numbers, _parse_intervals(latency)))
        if points := _parse_sweep(a.get("batches")):
            sweeps[name] = points
    archived_samples = data.get("samples_ms") or (_load_archived_samples(path) if "samples" in data else {})
    samples = {
        names[target_name]: [float(s) for one in processes for s in one]
        for target_name, processes in archived_samples.items()
        if target_name in names
    }
    return LoadedSource([source], rows, samples, sweeps)


def _load_archived_samples(path: Path) -> Mapping[str, Any]:
    """The latency samples stored next to a result; empty if the archive is missing, since only charts need them."""
    try:
        return load_samples(path)
    except (OSError, ValueError, KeyError, AttributeError):
        return {}


def _parse_sweep(points: Any) -> list[SweepPoint]:
    try:
        return [SweepPoint.model_validate(p) for p in points or []]
    except (ValidationError, TypeError):
        return []


def _parse_accuracy(data: Mapping[str, Any], path: Path, label: str) -> LoadedSource:
    source = _make_source(label, path, "accuracy", data["device"], name=str(data.get("name") or ""))
    rows = []
    for r in data["rows"]:
        top1 = r["accuracy"]["top1"]
        numbers = {"accuracy": top1["value"], **{k: r["accuracy"][k] for k in ("macro_f1", "ece")}, **r["cost"]}
        numbers |= {"balanced_accuracy": (r["accuracy"].get("balanced_accuracy") or {}).get("value")}  # from 0.1.1 on
        numbers |= {"agreement": (r.get("against_fp32") or {}).get("agreement")}
        name = format_candidate_name(r["path"], r["student"], r["precision"])
        name += f", {r['views']} views" if r["views"] > 1 else ""
        rows.append(_make_row(source, name, r, _select_metrics(numbers), {"accuracy": (top1["low"], top1["high"])}))
    return LoadedSource([source], rows)


def _parse_pack(data: Mapping[str, Any], path: Path, label: str) -> LoadedSource:
    measurements = DeviceMeasurements.from_json(data, str(path))
    if measurements.bench is not None:
        return _parse_benchmark(measurements.bench, path, label, "pack")
    source = _make_source(label, path, "pack", measurements.device)
    rows = [
        _make_row(
            source,
            m.latency.name,
            m.latency,
            _select_metrics(m.latency.to_json()),
            _parse_intervals(m.latency.to_json()),
        )
        for m in measurements.measured
    ]
    samples = {m.latency.name: [s for process in m.latency.samples_ms for s in process] for m in measurements.measured}
    return LoadedSource([source], rows, samples)


def _parse_comparison(data: Mapping[str, Any], path: Path) -> LoadedSource:
    schema = data.get("schema")
    if isinstance(schema, int) and schema > SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema {schema}, and this version of skd-edge reads schemas up to {SCHEMA_VERSION}; update it"
        )
    try:
        stored = Comparison.model_validate(data)
    except ValidationError as error:
        raise UserError(
            f"{path} is not a comparison of skd-edge: {error.errors()[0]['msg']}; store it again"
        ) from error
    return LoadedSource(stored.sources, stored.rows)


# ----------------------------------------------------------------------------------------------- rows and metrics
def format_candidate_name(path: Iterable[str], student: str, precision: str) -> str:
    """The name of a candidate as a run gives it: path and precision, such as "teacher>small int8"."""
    return f"{'>'.join(path) or student} {precision}".strip()


def _make_source(
    label: str, path: Path, kind: Any, device_info: Mapping[str, Any], known_device_id: str = "", *, name: str = ""
) -> ComparisonSource:
    gpus = [str(g.get("name")) for g in device_info.get("gpus") or [] if isinstance(g, dict)]
    device_text = ", ".join([str(device_info.get("cpu") or device_info.get("cpu_model") or "unknown device"), *gpus])
    resolved_device_id = known_device_id or (device_id(dict(device_info)) if device_info else "")
    return ComparisonSource(
        label=label,
        path=str(path),
        kind=kind,
        name=name,
        device_id=resolved_device_id,
        device=device_text,
        card=dict(device_info),
    )


def _make_row(
    source: ComparisonSource,
    name: str,
    described: Any,
    metrics: dict[str, float],
    intervals: Mapping[str, tuple[float, float]],
    device: str | None = None,
) -> ComparisonRow:
    get: Callable[[str], Any] = (
        described.get if isinstance(described, dict) else lambda key: getattr(described, key, "")
    )
    return ComparisonRow(
        source=source.label,
        name=name,
        student=str(get("student") or ""),
        precision=str(get("precision") or ""),
        device_id=source.device_id if device is None else device,
        metrics=metrics,
        intervals={k: v for k, v in intervals.items() if k in metrics},
    )


_NON_METRIC_KEYS = {"n", "processes", "trained", "eligible", "on_front", "chosen", "steady", "accuracy_per_ms"}


def _select_metrics(values: Mapping[str, Any]) -> dict[str, float]:
    """The entries that are metrics: numbers except NaN, without the keys in `_NON_METRIC_KEYS`."""
    return {
        k: float(v)
        for k, v in values.items()
        if isinstance(v, int | float) and not isinstance(v, bool) and k not in _NON_METRIC_KEYS and v == v
    }


def _parse_intervals(values: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Intervals by metric: the key `p50_interval` is that of `p50_ms`, and `interval` that of `accuracy`."""
    named = {k.replace("_interval", "_ms") if k != "interval" else "accuracy": v for k, v in values.items()}
    return {
        k: (float(v[0]), float(v[1]))
        for k, v in named.items()
        if isinstance(v, list | tuple) and len(v) == 2 and all(isinstance(x, int | float) for x in v)
    }


def _add_runtime_to_duplicate_names(rows: list[ComparisonRow], runtimes: list[str]) -> list[ComparisonRow]:
    """Rows with equal names, which differ in the runtime only, get its name appended."""
    names = [row.name for row in rows]
    return [
        row.model_copy(update={"name": f"{row.name} {runtime}"}) if names.count(row.name) > 1 else row
        for row, runtime in zip(rows, runtimes, strict=True)
    ]
