"""Checks measurements that come from another device: a wrong number would decide what is shipped."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain

from skd_bench.benchmark.latency import LatencyResult, MeasurementSettings
from skd_bench.benchmark.measurements import DeviceMeasurements, FileNote, MeasuredFile
from skd_bench.errors import UserError
from skd_bench.runtimes.base import CompileOptions
from skd_bench.stats import Interval

_MAX_MS = 3_600_000.0  # an hour for a single clip
_MAX_DEVICE_BYTES = 1 << 20
_MAX_MHZ = 100_000.0
_MAX_REASONS = 2000  # characters of all together
_MAX_LAYERS = 100_000  # of an engine; a network of 1000 layers has about 3000


def check_measurements(measurements: DeviceMeasurements, source: str) -> None:
    """Check that measurements are possible: positive finite latencies, percentiles of the samples, each file once.

    Args:
        measurements: What a pack wrote; types were checked when it was read.
        source: Where it comes from, for the message.

    Raises:
        UserError: A value is not possible. The message names the first one.
    """
    problem = next(_iter_problems(measurements), None)
    if problem is not None:
        raise UserError(f"{source}: {problem}; copy the file from the device again, or measure there again")


def check_settings(
    measurements: DeviceMeasurements, sent: MeasurementSettings, build: CompileOptions, source: str
) -> None:
    """Check that a device measured with the settings that it was sent, and compiled with these options.

    Raises:
        UserError: A setting differs.
    """
    for name, value in {**vars(sent), "build": build.key}.items():
        if (reported := getattr(measurements, name)) != value:
            raise UserError(
                f"{source}: it was measured with '{name}' {str(reported)[:80]!r} instead of {str(value)!r}; measure "
                "there again"
            )


def _iter_problems(measurements: DeviceMeasurements) -> Iterator[str]:
    for name in ("schema", "threads", "processes", "queries", "session_count"):
        if (value := getattr(measurements, name)) < 1:
            yield f"'{name}' is {value}; it must be 1 or more"
    yield from _iter_device_problems(measurements.device)
    seen: set[tuple[str, str]] = set()
    for i, file in enumerate(measurements.measured):
        for problem in _iter_file_problems(file):
            yield f"'measured[{i}]' {problem}"
        if (key := (file.sha256, file.runtime)) in seen:
            yield f"'measured[{i}]' is a second measurement of the file {file.sha256[:12]} on {file.runtime[:40]!r}"
        seen.add(key)
    for i, note in enumerate(measurements.notes):
        for problem in _iter_note_problems(note):
            yield f"'notes[{i}]' {problem}"


def _iter_device_problems(device: object) -> Iterator[str]:
    """What is wrong with a device info, whose keys no parser has checked."""
    try:
        size = len(json.dumps(device, allow_nan=False))
    except ValueError:
        yield "'device' contains a number that is not finite"
        return
    info = device if isinstance(device, dict) else {}
    if size > _MAX_DEVICE_BYTES:
        yield f"'device' has {size} bytes, more than any device info"
    if not isinstance(info.get("cpu"), str):
        yield "'device.cpu' is not the name of a processor"
    isa, runtimes, gpus = info.get("isa", []), info.get("runtimes") or {}, info.get("gpus") or []
    if not isinstance(isa, list) or not all(isinstance(flag, str) for flag in isa):
        yield "'device.isa' is not a list of names"
    if not isinstance(runtimes, dict) or not all(isinstance(v, str | None) for v in runtimes.values()):
        yield "'device.runtimes' does not map names to versions"
    if not isinstance(gpus, list) or not all(isinstance(gpu, dict) for gpu in gpus):
        yield "'device.gpus' is not a list of objects"


def _iter_file_problems(file: MeasuredFile) -> Iterator[str]:
    latency, samples = file.latency, list(chain.from_iterable(file.latency.samples_ms))
    if not re.fullmatch("[0-9a-f]{64}", file.sha256):
        yield "has no sha256 of 64 hexadecimal digits"
    if not samples:
        yield "has no samples"
        return
    if wrong := [ms for ms in samples if not 0 < ms <= _MAX_MS]:
        yield f"has a sample of {wrong[0]:g} ms; a latency is above 0 and at most an hour"
    if latency.n != len(samples):
        yield f"has {len(samples)} samples, but 'n' is {latency.n}"
    if latency.load_ms < 0 or latency.first_ms < 0 or (latency.peak_mb is not None and latency.peak_mb <= 0):
        yield "has a negative time or size"
    yield from _iter_percentile_problems(latency, min(samples), max(samples))
    if (clocks := latency.clocks) is not None:
        mhz = (clocks.before_mhz, clocks.after_mhz, clocks.lowest_mhz, clocks.highest_mhz)
        if not all(value is None or 0 <= value <= _MAX_MHZ for value in mhz):
            yield "has a clock that no GPU has"
        if not 0 <= clocks.dropped < max(clocks.blocks, 1) or sum(map(len, clocks.reasons)) > _MAX_REASONS:
            yield "has impossible numbers of blocks, or too many reasons"


def _iter_note_problems(note: FileNote) -> Iterator[str]:
    """What is wrong with a note, whose facts no parser has checked."""
    try:
        size = len(json.dumps(note.facts, allow_nan=False))
    except ValueError:
        yield "has a fact that is a number that is not finite"
        return
    if size > _MAX_DEVICE_BYTES:
        yield f"has facts of {size} bytes, more than any engine"
    if (builds := note.facts.get("builds")) is not None and not (
        isinstance(builds, list) and builds and all(map(_is_build, builds))
    ):
        yield "has builds that are not a list of objects with 'engine_sha256' and a latency 'p50_ms'"
    engine, layers = note.facts.get("engine_sha256"), note.facts.get("layers", [])
    if engine is not None and not _is_sha256(engine):
        yield "has an engine_sha256 that is not 64 hexadecimal digits"
    if not isinstance(layers, list) or not all(map(_is_layer_count, layers)):
        yield "has layers that are not a list of objects with the texts 'op' and 'ran' and the number 'nodes'"
    elif sum(row["nodes"] for row in layers) > _MAX_LAYERS:
        yield f"has more than {_MAX_LAYERS} layers"
    if note.logits is not None and (
        len(note.logits.shape) != 2 or not all(0 < n <= 1 << 31 for n in note.logits.shape)
    ):
        yield "has logits that are not a table of clips and classes"


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_build(row: object) -> bool:
    if not isinstance(row, dict) or not _is_sha256(row.get("engine_sha256")):
        return False
    p50_ms = row.get("p50_ms")
    return isinstance(p50_ms, int | float) and 0 < p50_ms <= _MAX_MS


def _is_layer_count(row: object) -> bool:
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("op", "ran")):
        return False
    return type(row.get("nodes")) is int and 0 <= row["nodes"] <= _MAX_LAYERS  # a bool is an int too


def _iter_percentile_problems(latency: LatencyResult, least: float, most: float) -> Iterator[str]:
    slack = 1e-9 * most  # the mean of two equal numbers may be rounded
    for name in ("p50", "p90", "p99"):
        interval: Interval | None = getattr(latency, name)
        if interval is None:
            continue
        if not least - slack <= interval.value <= most + slack:
            yield f"has {name} {interval.value:g} ms, but its samples are {least:g} to {most:g} ms"
        if not interval.low - slack <= interval.value <= interval.high + slack:
            yield f"has {name} {interval.value:g} ms outside its own interval {interval.low:g} to {interval.high:g} ms"
