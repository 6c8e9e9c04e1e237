"""All charts: Plotly accepts every figure, and without data there is no chart."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import plotly.graph_objects as go
import pytest

from skd_edge.report import charts
from skd_edge.report.schema import RunReport, parse_report


def reliability(report: RunReport) -> charts.Chart | None:
    return charts.build_reliability_chart(report.test.reliability, report.test.ece) if report.test else None


def ecdf(report: RunReport) -> charts.Chart | None:
    return charts.build_ecdf_chart(report.latency_samples)


def batch_sweep(report: RunReport) -> charts.Chart | None:
    return charts.build_batch_sweep_chart(report.batch_sweep)


ALL = [
    charts.build_tradeoff_chart,
    charts.build_latency_chart,
    charts.build_class_shares_chart,
    charts.build_confusion_chart,
    reliability,
    ecdf,
    batch_sweep,
]


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("name", ["full_result", "hostile_result", "unlucky_result"])
def test_plotly_accepts_every_figure(sample: ModuleType, make: Any, name: str) -> None:
    chart = make(parse_report(getattr(sample, name)()))
    if chart is None:
        assert (name, make) in {
            ("unlucky_result", charts.build_latency_chart),
            ("unlucky_result", charts.build_confusion_chart),
            ("hostile_result", charts.build_latency_chart),
            ("unlucky_result", reliability),
            ("unlucky_result", ecdf),
            ("unlucky_result", batch_sweep),
        }
        return
    assert len(go.Figure(chart.figure).data) == len(chart.figure["data"]) > 0
    assert chart.alt


@pytest.mark.parametrize("make", ALL)
def test_without_data_there_is_no_chart(sample: ModuleType, make: Any) -> None:
    assert make(parse_report(sample.minimal_result())) is None
