"""Charts of latency: the distribution for the chosen file, and those of all files."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from skd_edge.report.charts.common import Chart
from skd_edge.report.charts.latency import build_ecdf_chart, build_latency_chart
from skd_edge.report.schema import parse_report


def traces(chart: Chart | None) -> dict[str, Any]:
    assert chart is not None
    return {t["name"]: t for t in chart.figure["data"]}


def test_the_description_mentions_queries_outside_the_chart(sample: ModuleType) -> None:
    raw = sample.full_result()
    raw["latency_samples"][raw["chosen"]["name"]] = [3.7] * 400 + [900.0]
    raw["chosen"] |= {"p50_ms": 3.7, "p90_ms": 3.7, "p99_ms": None}
    chart = build_latency_chart(parse_report(raw))
    assert chart
    assert "1 slower query is outside the chart" in chart.alt
    assert sum(chart.figure["data"][0]["y"]) == 400


def test_each_file_has_its_own_dashes_and_at_most_six_are_drawn() -> None:
    chart = build_ecdf_chart({"slow": [4.0, 5.0, 6.0], "fast": [1.0, 2.0, 3.0], "once": [1.0]}, bold="slow")
    drawn = traces(chart)
    assert list(drawn) == ["fast", "slow"]
    assert drawn["fast"]["y"] == pytest.approx([100 / 3, 200 / 3, 100])
    assert drawn["fast"]["line"]["dash"] != drawn["slow"]["line"]["dash"]
    assert drawn["slow"]["line"]["width"] > drawn["fast"]["line"]["width"]
    assert chart
    assert "fast 2.00" in chart.alt
    many = build_ecdf_chart({str(i): [i + 1.0, i + 2.0] for i in range(12)}, bold="11")
    assert len(traces(many)) == 6
    assert "11" in traces(many)
    assert many
    assert "6 slower files are left out" in many.alt
