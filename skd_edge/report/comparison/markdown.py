"""A comparison as Markdown (for a pull request), as CSV (for a spreadsheet) and as JSON (for a program)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence

from skd_bench.untrusted.text import escape_markdown, escape_name
from skd_edge.data.csv_files import escape_formula
from skd_edge.report import formatting as f
from skd_edge.report.comparison.regression_gate import GateResult
from skd_edge.report.comparison.schema import Comparison, ComparisonRow, ComparisonSource
from skd_edge.report.markdown import format_table, replace_thin_spaces

# The metrics that have a column in Markdown and HTML: its title, and the format of its numbers.
COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "accuracy": ("accuracy", f.format_percent),
    "test_accuracy": ("test accuracy", f.format_percent),
    "balanced_accuracy": ("balanced accuracy", f.format_percent),
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
    """The metrics that get a column in Markdown and HTML: those of `COLUMNS` that at least one row has."""
    present = set(comparison.metric_names())
    return [m for m in COLUMNS if m in present]


def group_rows_by_file(comparison: Comparison) -> list[ComparisonRow]:
    """The rows, sorted so that those of one file are adjacent; files are in the order of their first row."""
    names = list(dict.fromkeys(row.name for row in comparison.rows))
    return sorted(comparison.rows, key=lambda row: names.index(row.name))


def format_latency_ratio(row: ComparisonRow, others: Sequence[ComparisonRow]) -> str:
    """The p50 of a row relative to the first row of the same file.

    Args:
        row: The row.
        others: All rows, those of the baseline first.

    Returns:
        A text such as "1.50 × a.json", or the reason why no ratio is given: "another device", "no interval", or
        "intervals overlap" (of the two 95 % intervals). Empty if there is no other row with a p50.
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
    """A metric of a row with its interval, for Markdown and HTML; "n/a" if it was not measured."""
    value = row.metrics.get(metric)
    if value is None:
        return f.UNKNOWN
    text = COLUMNS[metric][1](value)
    if metric not in row.intervals:
        return text
    format_range = f.format_percent_range if metric == "accuracy" else f.format_milliseconds_range
    return f"{text} ({format_range(row.intervals[metric])})"


def render_comparison_markdown(comparison: Comparison, baseline: Comparison | None, gate_result: GateResult) -> str:
    """The comparison as GitHub-flavoured Markdown: failed rules, the table, and the device of each source."""
    shown, rows = select_columns(comparison), group_rows_by_file(comparison)
    others = [*(baseline.rows if baseline else []), *rows]
    head = ["file", "source", *(COLUMNS[m][0] for m in shown), "p50 relative to"]
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
    """Warnings about numbers of the sources that cannot be compared."""
    messages = []
    if len({s.device_id for s in sources if s.device_id}) > 1:
        messages.append("The sources were measured on different devices; do not compare their latencies.")
    if len({s.name for s in sources if s.name}) > 1:
        messages.append(
            "The sources are from different recipes; do not compare their accuracies, which are of different clips."
        )
    return messages


def render_comparison_csv(comparison: Comparison) -> str:
    """The comparison as CSV: every row with all its metrics and intervals; texts cannot start a spreadsheet formula."""
    metrics = comparison.metric_names()
    with_interval = [m for m in metrics if any(m in row.intervals for row in comparison.rows)]
    head = ["source", "name", "student", "precision", "device_id", *metrics]
    head += [f"{m}_{end}" for m in with_interval for end in ("low", "high")]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(_escape_cell, head))
    for row in comparison.rows:
        texts = [_escape_cell(t) for t in (row.source, row.name, row.student, row.precision, row.device_id)]
        numbers = [row.metrics.get(m, "") for m in metrics]
        ends = [end for m in with_interval for end in row.intervals.get(m, ("", ""))]
        writer.writerow([*texts, *numbers, *ends])
    return out.getvalue()


def _escape_cell(text: str) -> str:
    return escape_formula(escape_name(text))


def render_comparison_json(comparison: Comparison, gate_result: GateResult) -> str:
    """The comparison as JSON, with the key `gate`: number of checks, failures and notes."""
    failures = [
        {"rule": x.rule.text, "name": x.row.name, "source": x.row.source, "why": x.why} for x in gate_result.failures
    ]
    gate: Mapping[str, object] = {"judged": gate_result.check_count, "failures": failures, "notes": gate_result.notes}
    return json.dumps(comparison.model_dump(mode="json", by_alias=True) | {"gate": gate}, indent=2, ensure_ascii=False)
