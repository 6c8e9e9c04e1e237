"""A comparison as Markdown for a pull request, as CSV for a spreadsheet, and as JSON for a program."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence

from skd_edge.report import formatting as f
from skd_edge.report.comparison.regression_gate import GateResult
from skd_edge.report.comparison.schema import Comparison, ComparisonRow, ComparisonSource
from skd_edge.report.markdown import escape_markdown, format_table, replace_thin_spaces

# Columns for people: title, and the number as people read it.
COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "accuracy": ("accuracy", f.format_percent),
    "test_accuracy": ("test accuracy", f.format_percent),
    "macro_f1": ("macro-F1", f.format_decimal),
    "ece": ("calibration error", f.format_percent),
    "agreement": ("agrees with FP32", f.format_percent),
    "p50_ms": ("p50 ms", f.format_bare_milliseconds),
    "p90_ms": ("p90 ms", f.format_bare_milliseconds),
    "p99_ms": ("p99 ms", f.format_bare_milliseconds),
    "peak_mb": ("peak MiB", f.format_bare_milliseconds),
    "bytes": ("size", lambda value: f.format_size(int(value))),
    "joules_per_clip": ("J/clip", f.format_tiny_number),
    "infer_ms": ("infer ms", f.format_bare_milliseconds),
    "decode_ms": ("decode ms", f.format_bare_milliseconds),
}


def select_columns(comparison: Comparison) -> list[str]:
    """The metrics that people are shown: those that some row has."""
    present = set(comparison.metric_names())
    return [m for m in COLUMNS if m in present]


def group_rows_by_file(comparison: Comparison) -> list[ComparisonRow]:
    """The rows, with those of one file beside each other, in the order in which files first come."""
    names = list(dict.fromkeys(row.name for row in comparison.rows))
    return sorted(comparison.rows, key=lambda row: names.index(row.name))


def format_latency_ratio(row: ComparisonRow, others: Sequence[ComparisonRow]) -> str:
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


def format_cell(row: ComparisonRow, metric: str) -> str:
    """A metric with its interval, for people; n/a where it was not measured."""
    value = row.metrics.get(metric)
    if value is None:
        return f.UNKNOWN
    text = COLUMNS[metric][1](value)
    if metric not in row.intervals:
        return text
    low, high = row.intervals[metric]
    return f"{text} ({f.format_percent_range((low, high)) if metric == 'accuracy' else f.format_milliseconds_range((low, high))})"


def render_comparison_markdown(comparison: Comparison, baseline: Comparison | None, gate_result: GateResult) -> str:
    """GitHub-flavoured Markdown: failures first, then the table, then where each source comes from."""
    shown, rows = select_columns(comparison), group_rows_by_file(comparison)
    others = [*(baseline.rows if baseline else []), *rows]
    head = ["file", "source", *(COLUMNS[m][0] for m in shown), "p50 against"]
    body = [
        [
            escape_markdown(r.name),
            escape_markdown(r.source),
            *(format_cell(r, m) for m in shown),
            escape_markdown(format_latency_ratio(r, others)),
        ]
        for r in rows
    ]
    parts = [
        _format_gate_result(gate_result),
        format_table(head, "ll" + "r" * len(shown) + "l", body),
        _format_sources(comparison, baseline),
    ]
    return replace_thin_spaces("\n\n".join(part for part in parts if part))


def _format_gate_result(gate_result: GateResult) -> str:
    if not gate_result.check_count:
        return ""
    if not gate_result.failures:
        verdict = f"**No regression**: {gate_result.check_count} checks passed."
    else:
        rows = [
            [
                escape_markdown(x.rule.text),
                escape_markdown(x.row.name),
                escape_markdown(x.row.source),
                escape_markdown(x.why),
            ]
            for x in gate_result.failures
        ]
        title = f"**{len(gate_result.failures)} of {gate_result.check_count} checks failed**"
        verdict = f"{title}\n\n{format_table(('rule', 'file', 'source', 'why'), 'llll', rows)}"
    return "\n".join([verdict, "", *(f"- {escape_markdown(note)}" for note in gate_result.notes)]).rstrip()


def _format_sources(comparison: Comparison, baseline: Comparison | None) -> str:
    sources = [*comparison.sources, *(baseline.sources if baseline else [])]
    lines = [
        f"- {escape_markdown(s.label)}: {s.kind}, {escape_markdown(s.device or 'unknown device')}" for s in sources
    ]
    return "\n".join([*lines, *(f"- {warning}" for warning in list_warnings(sources))])


def list_warnings(sources: Sequence[ComparisonSource]) -> list[str]:
    """What must not be read into numbers that stand side by side."""
    messages = []
    if len({s.device_id for s in sources if s.device_id}) > 1:
        messages.append("Different devices: their milliseconds stand side by side and do not compare.")
    if len({s.name for s in sources if s.name}) > 1:
        messages.append("Different recipes: their accuracies are of different clips and do not compare.")
    return messages


def render_comparison_csv(comparison: Comparison) -> str:
    """Every row with every metric and its interval; text from outside never starts a formula."""
    metrics = comparison.metric_names()
    with_interval = [m for m in metrics if any(m in row.intervals for row in comparison.rows)]
    head = ["source", "name", "student", "precision", "device_id", *metrics]
    head += [f"{m}_{end}" for m in with_interval for end in ("low", "high")]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(escape_csv_cell, head))
    for row in comparison.rows:
        texts = [escape_csv_cell(t) for t in (row.source, row.name, row.student, row.precision, row.device_id)]
        numbers = [row.metrics.get(m, "") for m in metrics]
        ends = [end for m in with_interval for end in row.intervals.get(m, ("", ""))]
        writer.writerow([*texts, *numbers, *ends])
    return out.getvalue()


def escape_csv_cell(text: str) -> str:
    """Text that a spreadsheet takes as text: a cell that would start a formula starts with an apostrophe (OWASP)."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return f"'{plain}" if plain.lstrip()[:1] in ("=", "+", "-", "@", "＝", "＋", "－", "＠") else plain


def render_comparison_json(comparison: Comparison, gate_result: GateResult) -> str:
    """The comparison, and `gate`: rules judged, failures and notes."""
    failures = [
        {"rule": x.rule.text, "name": x.row.name, "source": x.row.source, "why": x.why} for x in gate_result.failures
    ]
    gate: Mapping[str, object] = {"judged": gate_result.check_count, "failures": failures, "notes": gate_result.notes}
    return json.dumps(comparison.model_dump(mode="json", by_alias=True) | {"gate": gate}, indent=2, ensure_ascii=False)
