"""A comparison as one HTML file that works offline, in the style of a run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from skd_edge.report import charts
from skd_edge.report import formatting as f
from skd_edge.report.comparison import markdown as text
from skd_edge.report.comparison.regression_gate import Judged
from skd_edge.report.comparison.schema import Comparison, Row
from skd_edge.report.html import environment, plotly_js
from skd_edge.report.schema import Candidate, Result, SweepPoint
from skd_edge.report.summary import numbered


def html_of(
    now: Comparison,
    before: Comparison | None,
    judged: Judged,
    *,
    samples: Mapping[str, Sequence[float]],
    sweeps: Mapping[str, Sequence[SweepPoint]],
) -> str:
    """The page.

    Args:
        now: What is compared.
        before: The baseline, or None.
        judged: What the gate said.
        samples: Raw milliseconds by file and source, where they were kept.
        sweeps: Batch sweeps likewise.

    Raises:
        UserError: jinja2 or plotly is missing.
    """
    result = as_result(now)
    drawn = {
        "tradeoff": charts.tradeoff(result) if any(c.accuracy is not None for c in result.candidates) else None,
        "ecdf": charts.ecdf(samples),
        "sweep": charts.batch_sweep(sweeps),
    }
    rows, shown = text.grouped(now), text.columns(now)
    others = [*(before.rows if before else []), *rows]
    order = {n.it.name: n.number for n in numbered(result)}
    context: dict[str, Any] = {
        "now": now,
        "thin": f.THIN,
        "judged": judged,
        "titles": [text.COLUMNS[m][0] for m in shown],
        "rows": [
            {"it": r, "number": order[_unique(r)], "cells": [text.cell(r, m) for m in shown],
             "against": text.against(r, others)}
            for r in rows
        ],
        "signs": list(charts.signs(result.candidates).values()),
        "sources": [*now.sources, *(before.sources if before else [])],
        "warnings": text.warnings([*now.sources, *(before.sources if before else [])]),
        "card": f.facts,
        "plotly": plotly_js() if any(drawn.values()) else None,
        **drawn,
    }  # fmt: skip
    return environment().get_template("comparison.html.j2").render(context)


def as_result(now: Comparison) -> Result:
    """The rows as candidates, so that the chart of a run draws them: a source has one shape and colour."""
    candidates = [
        Candidate(
            name=_unique(r),
            student=r.source,
            precision=r.precision,
            accuracy=r.metrics.get("accuracy"),
            interval=r.intervals.get("accuracy"),
            p50_ms=r.metrics.get("p50_ms"),
            p50_interval=r.intervals.get("p50_ms"),
        )
        for r in now.rows
    ]
    return Result.model_validate({"schema": 1, "name": "comparison", "candidates": candidates})


def _unique(row: Row) -> str:
    return f"{row.name} · {row.source}"
