"""The reliability diagram: the accuracy of a file as a function of its confidence."""

from __future__ import annotations

from collections.abc import Sequence

from skd_edge.report import formatting as f
from skd_edge.report.charts.common import Chart, Figure, make_axis, make_layout
from skd_edge.report.schema import ConfidenceBin


def build_reliability_chart(bins: Sequence[ConfidenceBin], ece: float | None = None) -> Chart | None:
    """Accuracy against confidence with intervals, and below it the number of clips in each bin; None without clips.

    Args:
        bins: The bins; empty ones are left out.
        ece: Expected calibration error, 0..1, for the description.
    """
    known = [b for b in bins if b.n and b.accuracy is not None and b.confidence is not None]
    if not known:
        return None
    confidence = [100 * (b.confidence or 0.0) for b in known]
    accuracy = [100 * (b.accuracy or 0.0) for b in known]
    diagonal: Figure = {
        "type": "scatter",
        "mode": "lines",
        "x": [0, 100],
        "y": [0, 100],
        "name": "calibrated",
        "line": {"color": "var(--muted)", "width": 1.5, "dash": "dash"},
        "hoverinfo": "skip",
    }
    points: Figure = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": confidence,
        "y": accuracy,
        "name": "this file",
        "marker": {"symbol": "square", "size": 8, "color": "var(--s1)"},
        "line": {"color": "var(--s1)", "width": 1.5},
        "error_y": _make_error_bars(known),
        "hovertext": [
            f"{b.n} clips: confidence {c:.0f} %, accuracy {a:.0f} %"
            for b, c, a in zip(known, confidence, accuracy, strict=True)
        ],
        "hoverinfo": "text",
    }
    counts: Figure = {
        "type": "bar",
        "x": confidence,
        "y": [b.n for b in known],
        "yaxis": "y2",
        "name": "clips",
        "width": [3.0] * len(known),
        "marker": {"color": "var(--whisker)"},
        "hovertemplate": "%{y} clips<extra></extra>",
    }
    layout = make_layout(
        xaxis=make_axis("confidence, %") | {"range": [-1, 101], "anchor": "y2"},
        yaxis=make_axis("accuracy, %") | {"range": [-3, 105], "domain": [0.34, 1.0], "tickvals": [0, 25, 50, 75, 100]},
        yaxis2=make_axis("clips") | {"domain": [0.0, 0.24], "rangemode": "tozero", "nticks": 4},
    )
    return Chart({"data": [diagonal, points, counts], "layout": layout}, _format_reliability_alt_text(known, ece), 400)


def _make_error_bars(bins: Sequence[ConfidenceBin]) -> Figure:
    ends = [(100 * (b.accuracy or 0.0), b.interval) for b in bins]
    return {
        "type": "data",
        "symmetric": False,
        "thickness": 1,
        "width": 3,
        "color": "var(--muted)",
        "array": [max(0.0, 100 * i[1] - a) if i else 0.0 for a, i in ends],
        "arrayminus": [max(0.0, a - 100 * i[0]) if i else 0.0 for a, i in ends],
    }


def _format_reliability_alt_text(bins: Sequence[ConfidenceBin], ece: float | None) -> str:
    clips = sum(b.n for b in bins)
    overconfidence = sum(b.n * ((b.confidence or 0.0) - (b.accuracy or 0.0)) for b in bins) / clips
    text = f"Reliability over {clips} clips"
    text += f": expected calibration error {f.format_percent(ece)}" if ece is not None else ""
    if abs(overconfidence) < 0.01:
        return text + ". On average, confidence equals accuracy within 1 point."
    direction = "above" if overconfidence > 0 else "below"
    return f"{text}. On average, confidence is {100 * abs(overconfidence):.1f} points {direction} accuracy."
