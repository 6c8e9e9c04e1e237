"""The chart of the batch sweep."""

from __future__ import annotations

from types import ModuleType

from skd_edge.report.charts.batch_sweep import build_batch_sweep_chart
from skd_edge.report.schema import parse_report


def test_the_chart_needs_two_batch_sizes(sample: ModuleType) -> None:
    raw = sample.full_result()
    chart = build_batch_sweep_chart(parse_report(raw).batch_sweep)
    assert chart
    assert "highest throughput at batch size 16" in chart.alt
    assert {tuple(t["x"]) for t in chart.figure["data"]} == {(1, 2, 4, 8, 16)}
    raw["batch_sweep"] = {n: points[:1] for n, points in raw["batch_sweep"].items()}
    assert build_batch_sweep_chart(parse_report(raw).batch_sweep) is None
