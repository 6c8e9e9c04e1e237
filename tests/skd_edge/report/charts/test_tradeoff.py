"""The chart of accuracy against latency: its points, budget, labels, symbols, and candidates on two runtimes."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import plotly.graph_objects as go
import pytest

from skd_edge.report.charts.common import Chart, assign_marker_styles
from skd_edge.report.charts.tradeoff import build_tradeoff_chart
from skd_edge.report.schema import parse_report


def traces(chart: Chart | None) -> dict[str, Any]:
    assert chart is not None
    return {t["name"]: t for t in chart.figure["data"]}


def test_the_chart_has_the_values_of_the_report(sample: ModuleType) -> None:
    report = parse_report(sample.full_result())
    chart = build_tradeoff_chart(report)
    drawn = traces(chart)
    assert report.chosen
    assert drawn["chosen"]["x"] == [report.chosen.p50_ms]
    assert drawn["chosen"]["y"] == [pytest.approx(85.5)]
    assert len(drawn["not trained"]["x"]) == 4
    assert drawn["baseline"]["y"] == [pytest.approx(88.1)]
    assert set(drawn["wide fp32"]["x"]) == {
        c.p50_ms for c in report.candidates if c.student == "wide" and c.precision == "fp32"
    }
    assert chart
    assert [s["x0"] for s in chart.figure["layout"]["shapes"]] == [8.42]
    assert {"1", "teacher fp32"} <= {a["text"] for a in chart.figure["layout"]["annotations"]}


def test_symbols_in_the_chart_are_those_of_the_table(sample: ModuleType) -> None:
    report = parse_report(sample.full_result())
    drawn = traces(build_tradeoff_chart(report))
    for style in assign_marker_styles(report.candidates).values():
        if style.student != "broad":
            assert drawn[f"{style.student} {style.precision}"]["marker"]["symbol"] == style.plotly_symbol


def on_two_runtimes(sample: ModuleType) -> dict[str, Any]:
    """The full sample, with each candidate also on OpenVINO."""
    raw: dict[str, Any] = sample.full_result()
    both = [
        {**c, "name": f"{c['name']} on {runtime}", "runtime": runtime, "chosen": c["chosen"] and runtime == "ort"}
        for c in raw["candidates"]
        for runtime in ("ort", "openvino")
    ]
    return raw | {"candidates": both, "chosen": raw["chosen"] | {"name": f"{raw['chosen']['name']} on ort"}}


def test_runtimes_differ_by_more_than_colour(sample: ModuleType) -> None:
    report = parse_report(on_two_runtimes(sample))
    styles = assign_marker_styles(report.candidates)
    assert len({s.plotly_symbol for s in styles.values()}) == len(styles) == 12
    assert {s.legend_text for s in styles.values() if s.student == "wide"} == {
        f"wide {p} on {r}" for p in ("FP32", "INT8") for r in ("ort", "openvino")
    }
    drawn = traces(build_tradeoff_chart(report))
    assert drawn["wide int8 on openvino"]["marker"]["symbol"] == styles["wide", "int8", "openvino"].plotly_symbol
    go.Figure(build_tradeoff_chart(report).figure)
