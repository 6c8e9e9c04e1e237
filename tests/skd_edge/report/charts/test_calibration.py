"""The reliability diagram: intervals, counts and the description."""

from __future__ import annotations

from typing import Any

import pytest

from skd_edge.report.charts.calibration import build_reliability_chart
from skd_edge.report.charts.common import Chart
from skd_edge.report.schema import ConfidenceBin


def traces(chart: Chart | None) -> dict[str, Any]:
    assert chart is not None
    return {t["name"]: t for t in chart.figure["data"]}


def test_the_description_says_whether_confidence_is_too_high() -> None:
    point = {"n": 50, "confidence": 0.9, "accuracy": 0.6, "interval": [0.46, 0.72]}
    chart = build_reliability_chart([ConfidenceBin.model_validate(point)], 0.3)
    assert chart
    assert "confidence is 30.0 points above accuracy" in chart.alt
    file = traces(chart)["this file"]
    assert file["error_y"]["arrayminus"] == [pytest.approx(14)]
    assert traces(chart)["clips"]["y"] == [50]


def test_equal_confidence_and_accuracy_are_described_as_such() -> None:
    bins = [ConfidenceBin(n=10, confidence=0.5, accuracy=0.6), ConfidenceBin(n=10, confidence=0.9, accuracy=0.8)]
    chart = build_reliability_chart([*bins, ConfidenceBin()])
    assert chart
    assert "Reliability over 20 clips" in chart.alt
    assert "confidence equals accuracy" in chart.alt
    assert build_reliability_chart([ConfidenceBin()]) is None
