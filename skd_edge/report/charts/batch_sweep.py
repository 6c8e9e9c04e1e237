"""The chart of the batch sweep: throughput and latency as a function of the batch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from skd_edge.report import formatting as f
from skd_edge.report.charts.common import (
    SYMBOLS,
    Chart,
    Figure,
    add_legend,
    escape_label,
    make_axis,
    make_layout,
    make_line_style,
)
from skd_edge.report.schema import SweepPoint


def build_batch_sweep_chart(sweeps: Mapping[str, Sequence[SweepPoint]], limit: int = 6) -> Chart | None:
    """Throughput and latency of a batch against the batch size; None if no file has two batch sizes.

    Args:
        sweeps: Measurements by file.
        limit: Largest number of files.
    """
    known = {n: sorted((p for p in s if p.p50_ms and p.batch >= 1), key=lambda p: p.batch) for n, s in sweeps.items()}
    known = dict([(n, s) for n, s in known.items() if len(s) >= 2][:limit])
    if not known:
        return None
    data: list[Figure] = []
    for i, (name, points) in enumerate(known.items()):
        common = {
            "type": "scatter",
            "mode": "lines+markers",
            "x": [p.batch for p in points],
            "line": make_line_style(i),
            "marker": {"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 8},
            "name": escape_label(name, 40),
            "legendgroup": str(i),
        }
        rate = [p.clips_per_second for p in points]
        ms = [p.p50_ms or 0.0 for p in points]
        data.append(common | {"y": rate, "hovertemplate": "batch %{x}: %{y:.3g} clips/s<extra></extra>"})
        low = [max(0.0, m - p.p50_interval[0]) if p.p50_interval else 0.0 for m, p in zip(ms, points, strict=True)]
        high = [max(0.0, p.p50_interval[1] - m) if p.p50_interval else 0.0 for m, p in zip(ms, points, strict=True)]
        bars = {"type": "data", "symmetric": False, "array": high, "arrayminus": low, "thickness": 1, "width": 3}
        lower = {"y": ms, "yaxis": "y2", "showlegend": False, "error_y": bars | {"color": "var(--whisker)"}}
        data.append(common | lower | {"hovertemplate": "batch %{x}: p50 %{y:.3g} ms<extra></extra>"})
    batches = sorted({p.batch for points in known.values() for p in points})
    x = make_axis("batch size, clips (log scale)") | {
        "type": "log",
        "anchor": "y2",
        "tickmode": "array",
        "tickvals": batches,
    }
    layout = make_layout(
        xaxis=x | {"ticktext": [str(b) for b in batches]},
        yaxis=make_axis("clips per second") | {"domain": [0.55, 1.0], "rangemode": "tozero"},
        yaxis2=make_axis("p50 of a batch, ms") | {"domain": [0.0, 0.45], "rangemode": "tozero"},
    )
    return Chart({"data": data, "layout": add_legend(layout)}, _format_sweep_alt_text(known), 480)


def _format_sweep_alt_text(known: Mapping[str, Sequence[SweepPoint]]) -> str:
    parts = []
    for name, points in known.items():
        best = max(points, key=lambda p: p.clips_per_second)
        parts.append(
            f"{name}: highest throughput at batch size {best.batch}, {best.clips_per_second:.3g} clips per second, "
            f"{f.format_milliseconds(best.p50_ms)} per batch"
        )
    return "Batch sweep. " + "; ".join(parts) + "."
