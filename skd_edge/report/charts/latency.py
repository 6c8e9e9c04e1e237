"""Charts of latency: the distribution for the chosen file, and the distributions of all files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from skd_edge.report import formatting as f
from skd_edge.report.charts.common import (
    Chart,
    Figure,
    add_legend,
    escape_label,
    make_axis,
    make_layout,
    make_line_style,
    make_vertical_line,
)
from skd_edge.report.schema import RunReport


def build_latency_chart(report: RunReport) -> Chart | None:
    """Latencies of the chosen file: a histogram, and below it the cumulative distribution; None without samples."""
    chosen = report.chosen
    samples = np.sort(np.asarray(report.latency_samples.get(chosen.name, []) if chosen else [], dtype=float))
    if chosen is None or len(samples) < 2:
        return None
    end = max([float(np.quantile(samples, 0.995)), *(p for p in (chosen.p50_ms, chosen.p99_ms) if p)]) * 1.03
    beyond = int((samples > end).sum())
    counts, edges = np.histogram(samples[samples <= end], bins=min(60, max(10, int(len(samples) ** 0.5))))
    steps = np.linspace(0, len(samples) - 1, min(300, len(samples))).round().astype(int)
    lines = [(name, ms) for name, ms in (("p50", chosen.p50_ms), ("p90", chosen.p90_ms), ("p99", chosen.p99_ms)) if ms]
    start = float(samples[0]) - 0.02 * (end - float(samples[0]))
    layout = make_layout(
        xaxis=make_axis("milliseconds per query") | {"range": [start, end], "anchor": "y2"},
        yaxis=make_axis("queries") | {"domain": [0.5, 0.93]},
        yaxis2=make_axis("answered, %") | {"domain": [0.0, 0.4], "range": [0, 104], "tickvals": [0, 50, 90]},
    )
    layout |= {
        "bargap": 0.06,
        "shapes": [make_vertical_line(ms) for _, ms in lines],
        "annotations": _make_percentile_marks(lines, start, end),
    }
    bars = {
        "type": "bar",
        "x": ((edges[:-1] + edges[1:]) / 2).tolist(),
        "width": np.diff(edges).tolist(),
        "y": counts.tolist(),
        "marker": {"color": "var(--s1)", "opacity": 0.8},
        "hovertemplate": "%{y} queries around %{x:.2f} ms<extra></extra>",
        "name": "queries",
    }
    curve = {
        "type": "scatter",
        "mode": "lines",
        "x": samples[steps].tolist(),
        "y": (100.0 * (steps + 1) / len(samples)).tolist(),
        "yaxis": "y2",
        "line": {"color": "var(--ink)", "width": 2, "shape": "hv"},
        "hovertemplate": "%{y:.1f} % within %{x:.2f} ms<extra></extra>",
        "name": "share answered",
    }
    alt_text = (
        f"Latency of {len(samples)} queries: " + ", ".join(f"{n} {f.format_milliseconds(ms)}" for n, ms in lines) + "."
    )
    if beyond:
        alt_text += f" {beyond} slower {'query is' if beyond == 1 else 'queries are'} outside the chart."
    return Chart({"data": [bars, curve], "layout": layout}, alt_text, 400)


def _make_percentile_marks(lines: Sequence[tuple[str, float]], start: float, end: float) -> list[Figure]:
    """Names of the percentiles above their lines; a name that would touch its left neighbour is placed higher."""
    marks: list[Figure] = []
    last, level = -1.0, 0
    for name, ms in lines:
        at = (ms - start) / (end - start)
        level = level + 1 if at - last < 0.12 else 0
        last = at
        mark = {
            "x": ms,
            "yref": "paper",
            "y": 0.95 + 0.055 * level,
            "yanchor": "bottom",
            "text": name,
            "showarrow": False,
        }
        marks.append(
            mark | {"font": {"color": "var(--warn)", "size": 12.5}, "xanchor": "center" if at < 0.94 else "right"}
        )
    return marks


# --------------------------------------------------------------------------------------------------- all files
def build_ecdf_chart(samples: Mapping[str, Sequence[float]], bold: str = "", limit: int = 6) -> Chart | None:
    """Cumulative distribution of the latencies, one line for each file; None with fewer than two files.

    Args:
        samples: Latencies in milliseconds by file.
        bold: The file whose line is thicker.
        limit: Largest number of files; if there are more, `bold` and the fastest others are drawn.
    """
    known = {n: np.sort(np.asarray(s, float)) for n, s in samples.items() if len(s) >= 2}
    if len(known) < 2:
        return None
    names = sorted(known, key=lambda n: (n != bold, float(np.median(known[n]))))[:limit]
    names.sort(key=lambda n: float(np.median(known[n])))
    ends = [float(v) for n in names for v in np.quantile(known[n], [0, 0.99])]
    log = max(ends) > 8 * max(min(ends), 1e-6)
    data = []
    for i, name in enumerate(names):
        steps = np.linspace(0, len(known[name]) - 1, min(250, len(known[name]))).round().astype(int)
        line = make_line_style(i, 3.5 if name == bold else 2.0) | {"shape": "hv"}
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": escape_label(name, 40),
                "line": line,
                "x": known[name][steps].tolist(),
                "y": (100.0 * (steps + 1) / len(known[name])).tolist(),
                "hovertemplate": f"{escape_label(name, 40)}: %{{y:.1f}} % within %{{x:.3g}} ms<extra></extra>",
            }
        )
    span = [np.log10(max(min(ends), 1e-6) * 0.95), np.log10(max(ends) * 1.1)] if log else [min(ends) * 0.95, max(ends)]
    x = make_axis("milliseconds per query" + (" (log scale)" if log else ""))
    x |= {"type": "log" if log else "linear", "range": [float(v) for v in span]}
    y = make_axis("queries answered, %") | {"range": [0, 102], "tickvals": [0, 50, 90, 99]}
    alt_text = "Cumulative distribution of the latencies. Medians: "
    alt_text += ", ".join(f"{n} {f.format_milliseconds(float(np.median(known[n])))}" for n in names) + "."
    if len(known) > limit:
        alt_text += f" {len(known) - limit} slower files are left out."
    return Chart({"data": data, "layout": add_legend(make_layout(xaxis=x, yaxis=y))}, alt_text, 400 + 9 * len(names))
