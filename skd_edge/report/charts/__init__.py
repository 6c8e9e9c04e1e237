"""The charts of the page as Plotly figures: plain JSON objects, drawn in the browser by the bundled plotly.js."""

from __future__ import annotations

from skd_edge.report.charts.batch_sweep import batch_sweep
from skd_edge.report.charts.calibration import reliability
from skd_edge.report.charts.classes import class_shares, confusion
from skd_edge.report.charts.common import Chart, Figure, Sign, signs
from skd_edge.report.charts.latency import ecdf, latency
from skd_edge.report.charts.tradeoff import tradeoff

__all__ = [
    "Chart",
    "Figure",
    "Sign",
    "batch_sweep",
    "class_shares",
    "confusion",
    "ecdf",
    "latency",
    "reliability",
    "signs",
    "tradeoff",
]
