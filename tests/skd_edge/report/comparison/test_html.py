"""A comparison as an HTML page: escaping, failed rules, and sources as series of the chart."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from skd_edge.report.comparison.compare import compare_sources
from skd_edge.report.comparison.html import convert_to_run_report, render_comparison_html
from skd_edge.report.comparison.regression_gate import evaluate_rules, parse_rule
from skd_edge.report.comparison.schema import Comparison


def test_the_page_escapes_names_and_no_csv_cell_starts_a_formula(tmp_path: Path, page_of: Any, bench_json: Any) -> None:
    evil = '=HYPERLINK("http://evil.example")<script>alert(1)</script>'
    path = bench_json(tmp_path / "<b>.json", 4.0, device=bench_json.device | {"cpu": f"<img src=x>{evil}"}, name=evil)
    html, table = tmp_path / "c.html", tmp_path / "c.csv"
    compare_sources([path], html=html, table=table)
    page = page_of(html.read_text())
    assert "img" not in page.tags
    assert page.tags.count("script") <= 4
    assert evil in page.text
    assert page.handlers == []
    rows = list(csv.reader(io.StringIO(table.read_text())))
    assert rows[0][:3] == ["source", "name", "student"]
    assert rows[1][2] == f"'{evil}"
    assert float(rows[1][rows[0].index("p50_ms")]) == 4
    assert float(rows[1][rows[0].index("p50_ms_high")]) == pytest.approx(4.08)


def make_comparison() -> Comparison:
    rows = [
        {"source": s, "name": "a>b int8", "precision": "int8", "metrics": {"p50_ms": p50, "accuracy": 0.8}}
        for s, p50 in (("old", 4.0), ("new", 5.0))
    ]
    sources = [{"label": s, "path": s, "kind": "run", "device": "cpu"} for s in ("old", "new")]
    return Comparison.model_validate({"schema": 1, "sources": sources, "rows": rows})


def test_each_source_is_a_series_of_its_own() -> None:
    candidates = convert_to_run_report(make_comparison()).candidates
    assert [(c.name, c.student, c.p50_ms) for c in candidates] == [
        ("a>b int8 · old", "old", 4.0),
        ("a>b int8 · new", "new", 5.0),
    ]


@pytest.mark.parametrize(
    ("limit", "verdict"), [("4.5", "1 of 2 checks failed."), ("9", "No regression: 2 checks passed.")]
)
def test_the_page_shows_the_result_of_rules_and_the_legend(limit: str, verdict: str, page_of: Any) -> None:
    comparison = make_comparison()
    gate = evaluate_rules(comparison, [parse_rule(f"p50_ms>{limit}")], None)
    page = page_of(render_comparison_html(comparison, None, gate, samples={}, sweeps={}))
    assert verdict in page.text
    assert "2 files from 2 sources" in page.text
    assert ("p50_ms is 5" in page.text) == bool(gate.failures)
    assert "new INT8" in page.text
    assert "n/a" not in page.text.split("n/a: not measured")[1]
