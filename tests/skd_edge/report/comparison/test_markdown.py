"""A comparison as Markdown, CSV and JSON: ratios, order of rows, and text that spreadsheets do not interpret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skd_edge.report.comparison.compare import compare_sources
from skd_edge.report.comparison.markdown import (
    format_cell,
    format_latency_ratio,
    group_rows_by_file,
    render_comparison_csv,
)
from skd_edge.report.comparison.schema import Comparison, ComparisonRow


def test_there_is_no_ratio_if_intervals_overlap(tmp_path: Path, bench_json: Any) -> None:
    same, slower = bench_json(tmp_path / "same.json", 4.01), bench_json(tmp_path / "slower.json", 6.0)
    output = compare_sources([bench_json(tmp_path / "a.json", 4.0), same, slower])
    lines = output.text.splitlines()
    assert "intervals overlap" in next(line for line in lines if "same" in line)
    assert "1.50 × a.json" in next(line for line in lines if "slower" in line)
    assert not output.failed


def test_no_cell_becomes_a_formula_and_none_breaks_its_row() -> None:
    rows = [make_row("=1+1"), make_row("b", name=" @sum\n\x1b[2J"), make_row("c", name="-2")]
    _, *lines = render_comparison_csv(Comparison(sources=[], rows=rows)).splitlines()
    assert [line.split(",")[:2] for line in lines] == [["'=1+1", "f"], ["b", "' @sum\\u000a\\u001b[2J"], ["c", "'-2"]]


def make_row(source: str, name: str = "f", p50: float = 2.0, **more: Any) -> ComparisonRow:
    return ComparisonRow(
        source=source, name=name, metrics={"p50_ms": p50}, intervals={"p50_ms": (0.99 * p50, 1.01 * p50)}, **more
    )


def test_the_ratio_is_to_the_first_row_of_the_same_file_and_device() -> None:
    first, slower = make_row("a"), make_row("b", p50=5.0)
    others = [make_row("x", "other file"), first, slower]
    assert format_latency_ratio(slower, others) == "2.50 × a"
    assert format_latency_ratio(first, others) == ""
    assert format_latency_ratio(make_row("b", p50=5.0, device_id="d"), others) == "another device"
    without_interval = slower.model_copy(update={"intervals": {}})
    assert format_latency_ratio(without_interval, others) == "no interval"
    assert format_latency_ratio(slower.model_copy(update={"metrics": {}}), others) == ""


def test_rows_of_one_file_are_adjacent() -> None:
    rows = [make_row("a", "f"), make_row("a", "g"), make_row("b", "f"), make_row("b", "h"), make_row("b", "g")]
    comparison = Comparison(schema=1, sources=[], rows=rows)
    assert [(r.name, r.source) for r in group_rows_by_file(comparison)] == [
        ("f", "a"),
        ("f", "b"),
        ("g", "a"),
        ("g", "b"),
        ("h", "b"),
    ]


def test_a_cell_has_the_interval_in_the_unit_of_its_metric() -> None:
    row = ComparisonRow(
        source="a",
        name="f",
        metrics={"accuracy": 0.8, "p50_ms": 4.0, "bytes": 2000.0},
        intervals={"accuracy": (0.7, 0.9), "p50_ms": (3.9, 4.1)},
    )
    cells = [format_cell(row, metric).replace("\u202f", " ") for metric in ("accuracy", "p50_ms", "bytes", "p99_ms")]
    assert cells == ["80.0 % (70.0–90.0 %)", "4.00 (3.90–4.10)", "2.00 kB", "n/a"]
