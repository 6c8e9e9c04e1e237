"""A comparison as one self-contained HTML file that works offline, in the style of the report of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from skd_edge.report import charts
from skd_edge.report import formatting as f
from skd_edge.report.comparison import markdown as text
from skd_edge.report.comparison.regression_gate import GateResult
from skd_edge.report.comparison.schema import Comparison, ComparisonRow
from skd_edge.report.html import load_plotly_js, make_template_environment
from skd_edge.report.schema import CandidateReport, RunReport, SweepPoint
from skd_edge.report.summary import number_candidates


def render_comparison_html(
    comparison: Comparison,
    baseline: Comparison | None,
    gate_result: GateResult,
    *,
    samples: Mapping[str, Sequence[float]],
    sweeps: Mapping[str, Sequence[SweepPoint]],
) -> str:
    """The HTML page of a comparison.

    Args:
        comparison: The comparison.
        baseline: The baseline, or None.
        gate_result: The result of the rules.
        samples: Latency samples in milliseconds by file and source, where they were stored.
        sweeps: Batch sweeps by file and source, where they were measured.

    Returns:
        One HTML document that contains its style, scripts and figures.

    Raises:
        UserError: jinja2 or plotly is not installed.
    """
    report = convert_to_run_report(comparison)
    charts_by_name = {
        "tradeoff": charts.build_tradeoff_chart(report)
        if any(c.accuracy is not None for c in report.candidates)
        else None,
        "ecdf": charts.build_ecdf_chart(samples),
        "sweep": charts.build_batch_sweep_chart(sweeps),
    }
    rows, shown = text.group_rows_by_file(comparison), text.select_columns(comparison)
    others = [*(baseline.rows if baseline else []), *rows]
    number_by_name = {n.candidate.name: n.number for n in number_candidates(report)}
    context: dict[str, Any] = {
        "comparison": comparison,
        "thin": f.THIN_SPACE,
        "gate": gate_result,
        "titles": [text.COLUMNS[m][0] for m in shown],
        "rows": [
            {
                "row": r,
                "number": number_by_name[_unique_row_name(r)],
                "cells": [text.format_cell(r, m) for m in shown],
                "latency_ratio": text.format_latency_ratio(r, others),
            }
            for r in rows
        ],
        "legend_styles": list(charts.assign_marker_styles(report.candidates).values()),
        "sources": [*comparison.sources, *(baseline.sources if baseline else [])],
        "warnings": text.list_warnings([*comparison.sources, *(baseline.sources if baseline else [])]),
        "flatten_to_rows": f.flatten_to_rows,
        "plotly": load_plotly_js() if any(charts_by_name.values()) else None,
        **charts_by_name,
    }
    return make_template_environment().get_template("comparison.html.j2").render(context)


def convert_to_run_report(comparison: Comparison) -> RunReport:
    """The rows as candidates, for the charts of a run; each source is a student, with its own shape and colour."""
    candidates = [
        CandidateReport(
            name=_unique_row_name(r),
            student=r.source,
            precision=r.precision,
            accuracy=r.metrics.get("accuracy"),
            interval=r.intervals.get("accuracy"),
            p50_ms=r.metrics.get("p50_ms"),
            p50_interval=r.intervals.get("p50_ms"),
        )
        for r in comparison.rows
    ]
    return RunReport.model_validate({"schema": 1, "name": "comparison", "candidates": candidates})


def _unique_row_name(row: ComparisonRow) -> str:
    return f"{row.name} · {row.source}"
