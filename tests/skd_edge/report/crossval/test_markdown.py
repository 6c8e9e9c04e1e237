"""The Markdown page of a cross-validation."""

from __future__ import annotations

from skd_edge.report.crossval.markdown import render_crossval_markdown


def test_the_page(report):
    page = render_crossval_markdown(report)
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert any("teacher (FP32 file)" in row and "90.0 % [70.0–90.0 %]" in row for row in rows)
    [first] = [row for row in rows if row.startswith("| 1 |")]
    assert first.endswith("small int8 | 2.00 | 80.0 % | 90.0 % | n/a | n/a |")
    assert any(row.startswith("| 3 | n/a | **failed** |") for row in rows)
    assert "- fold 3 failed: no " in page
    assert "no \\<b>training" in page
    assert page.endswith("- A cross-validation ships nothing.\n")


def test_without_any_figure(report):
    page = render_crossval_markdown(report.model_copy(update={"pooled": [], "folds": report.folds[2:]}))
    assert "all folds" not in page
    assert "fold 3 failed" in page
