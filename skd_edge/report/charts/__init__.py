"""The charts of the HTML pages, as Plotly figures: plain JSON that the plotly.js in the page draws in the browser."""

from __future__ import annotations

from skd_edge.report.charts.batch_sweep import build_batch_sweep_chart
from skd_edge.report.charts.calibration import build_reliability_chart
from skd_edge.report.charts.classes import build_class_shares_chart, build_confusion_chart
from skd_edge.report.charts.common import Chart, Figure, MarkerStyle, assign_marker_styles
from skd_edge.report.charts.latency import build_ecdf_chart, build_latency_chart
from skd_edge.report.charts.tradeoff import build_tradeoff_chart

__all__ = [
    "Chart",
    "Figure",
    "MarkerStyle",
    "assign_marker_styles",
    "build_batch_sweep_chart",
    "build_class_shares_chart",
    "build_confusion_chart",
    "build_ecdf_chart",
    "build_latency_chart",
    "build_reliability_chart",
    "build_tradeoff_chart",
]
