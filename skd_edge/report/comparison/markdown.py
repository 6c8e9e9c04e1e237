"""A comparison as Markdown for a pull request, as CSV for a spreadsheet, and as JSON for a program."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence

from skd_edge.report import formatting as f
from skd_edge.report.comparison.regression_gate import Judged
from skd_edge.report.comparison.schema import Comparison, Row, Source
from skd_edge.report.markdown import escaped, plain_spaces, table

# Columns for people: title, and the number as people read it.
COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "accuracy": ("accuracy", f.percent),
    "test_accuracy": ("test accuracy", f.percent),
    "macro_f1": ("macro-F1", f.decimal),
    "ece": ("calibration error", f.percent),
    "agreement": ("agrees with FP32", f.percent),
    "p50_ms": ("p50 ms", f.bare_milliseconds),
    "p90_ms": ("p90 ms", f.bare_milliseconds),
    "p99_ms": ("p99 ms", f.bare_milliseconds),
    "peak_mb": ("peak MiB", f.bare_milliseconds),
    "bytes": ("size", lambda value: f.size(int(value))),
    "joules_per_clip": ("J/clip", f.tiny),
    "infer_ms": ("infer ms", f.bare_milliseconds),
    "decode_ms": ("decode ms", f.bare_milliseconds),
}


def columns(comparison: Comparison) -> list[str]:
    """The metrics that people are shown: those that some row has."""
    there = set(comparison.metrics())
    return [m for m in COLUMNS if m in there]


def grouped(comparison: Comparison) -> list[Row]:
    """The rows, with those of one file beside each other, in the order in which files first come."""
    names = list(dict.fromkeys(row.name for row in comparison.rows))
    return sorted(comparison.rows, key=lambda row: names.index(row.name))


def against(row: Row, others: Sequence[Row]) -> str:
    """p50 against the first row of the same file on the same device; empty where there is none.

    No winner is named where the two 95 % intervals overlap, or where there are none.
    """
    first = next((o for o in others if o.name == row.name and "p50_ms" in o.metrics), None)
    if first is None or first is row or "p50_ms" not in row.metrics or not first.metrics["p50_ms"]:
        return ""
    if first.device_id != row.device_id:
        return "another device"
    a, b = row.intervals.get("p50_ms"), first.intervals.get("p50_ms")
    if a is None or b is None:
        return "no interval"
    if a[0] <= b[1] and b[0] <= a[1]:
        return "intervals overlap"
    ratio = row.metrics["p50_ms"] / first.metrics["p50_ms"]
    return f"{ratio:.2f} × {first.source}"


def cell(row: Row, metric: str) -> str:
    """A metric with its interval, for people; n/a where it was not measured."""
    value = row.metrics.get(metric)
    if value is None:
        return f.UNKNOWN
    said = COLUMNS[metric][1](value)
    if metric not in row.intervals:
        return said
    low, high = row.intervals[metric]
    return f"{said} ({f.percent_range((low, high)) if metric == 'accuracy' else f.milliseconds_range((low, high))})"


def markdown_of(now: Comparison, before: Comparison | None, judged: Judged) -> str:
    """GitHub-flavoured Markdown: failures first, then the table, then where each source comes from."""
    shown, rows = columns(now), grouped(now)
    others = [*(before.rows if before else []), *rows]
    head = ["file", "source", *(COLUMNS[m][0] for m in shown), "p50 against"]
    body = [
        [escaped(r.name), escaped(r.source), *(cell(r, m) for m in shown), escaped(against(r, others))] for r in rows
    ]
    parts = [_gate(judged), table(head, "ll" + "r" * len(shown) + "l", body), _where(now, before)]
    return plain_spaces("\n\n".join(part for part in parts if part))


def _gate(judged: Judged) -> str:
    if not judged.judged:
        return ""
    if not judged.failures:
        said = f"**No regression**: {judged.judged} checks passed."
    else:
        rows = [
            [escaped(x.rule.text), escaped(x.row.name), escaped(x.row.source), escaped(x.why)] for x in judged.failures
        ]
        title = f"**{len(judged.failures)} of {judged.judged} checks failed**"
        said = f"{title}\n\n{table(('rule', 'file', 'source', 'why'), 'llll', rows)}"
    return "\n".join([said, "", *(f"- {escaped(note)}" for note in judged.notes)]).rstrip()


def _where(now: Comparison, before: Comparison | None) -> str:
    sources = [*now.sources, *(before.sources if before else [])]
    lines = [f"- {escaped(s.label)}: {s.kind}, {escaped(s.device or 'unknown device')}" for s in sources]
    return "\n".join([*lines, *(f"- {said}" for said in warnings(sources))])


def warnings(sources: Sequence[Source]) -> list[str]:
    """What must not be read into numbers that stand side by side."""
    said = []
    if len({s.device_id for s in sources if s.device_id}) > 1:
        said.append("Different devices: their milliseconds stand side by side and do not compare.")
    if len({s.name for s in sources if s.name}) > 1:
        said.append("Different recipes: their accuracies are of different clips and do not compare.")
    return said


def csv_of(comparison: Comparison) -> str:
    """Every row with every metric and its interval; text from outside never starts a formula."""
    metrics = comparison.metrics()
    with_interval = [m for m in metrics if any(m in row.intervals for row in comparison.rows)]
    head = ["source", "name", "student", "precision", "device_id", *metrics]
    head += [f"{m}_{end}" for m in with_interval for end in ("low", "high")]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(harmless, head))
    for row in comparison.rows:
        texts = [harmless(t) for t in (row.source, row.name, row.student, row.precision, row.device_id)]
        numbers = [row.metrics.get(m, "") for m in metrics]
        ends = [end for m in with_interval for end in row.intervals.get(m, ("", ""))]
        writer.writerow([*texts, *numbers, *ends])
    return out.getvalue()


def harmless(text: str) -> str:
    """Text that a spreadsheet takes as text: a cell that would start a formula starts with an apostrophe (OWASP)."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return f"'{plain}" if plain.lstrip()[:1] in ("=", "+", "-", "@", "＝", "＋", "－", "＠") else plain


def json_of(now: Comparison, judged: Judged) -> str:
    """The comparison, and `gate`: rules judged, failures and notes."""
    failures = [
        {"rule": x.rule.text, "name": x.row.name, "source": x.row.source, "why": x.why} for x in judged.failures
    ]
    gate: Mapping[str, object] = {"judged": judged.judged, "failures": failures, "notes": judged.notes}
    return json.dumps(now.model_dump(mode="json", by_alias=True) | {"gate": gate}, indent=2, ensure_ascii=False)
