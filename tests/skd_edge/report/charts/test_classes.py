"""Charts of classes: the confusion matrix, and shares before and after label optimisation."""

from __future__ import annotations

from types import ModuleType

from skd_edge.report.charts.classes import build_class_shares_chart, build_confusion_chart
from skd_edge.report.schema import parse_report


def test_confusion_counts_and_row_shares(sample: ModuleType) -> None:
    raw = sample.full_result()
    raw["test"]["confusion"] = [[3, 1], [0, 0]]
    raw["test"]["per_class"] = [{"class": "2024-01-01"}, {"class": "7"}]
    chart = build_confusion_chart(parse_report(raw))
    assert chart
    heat = chart.figure["data"][0]
    assert heat["z"] == [[75.0, 25.0], [0.0, 0.0]]
    assert heat["text"] == [["3", "1"], ["", ""]]
    assert chart.figure["layout"]["xaxis"]["ticktext"] == ["2024-01-01", "7"]
    assert "2024-01-01 predicted as 7, 1 clips" in chart.alt


def test_of_many_classes_those_that_changed_most_are_shown() -> None:
    before = {f"c{i}": 0.1 for i in range(10)}
    after = before | {"c3": 0.3, "c7": 0.05}
    labels = {"class_shares_before": before, "class_shares_after": after}
    chart = build_class_shares_chart(parse_report({"schema": 1, "name": "n", "labels": labels}), limit=2)
    assert chart
    assert chart.figure["layout"]["yaxis"]["ticktext"] == ["c3", "c7"]
    assert [trace["x"] for trace in chart.figure["data"]] == [[10.0, 10.0], [30.0, 5.0]]
    assert "Largest change: c3, +20.0 points" in chart.alt
