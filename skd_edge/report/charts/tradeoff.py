"""The chart of the metric of the choice against latency: candidates, intervals, baselines, Pareto front and budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from skd_edge.report import formatting as f
from skd_edge.report import summary
from skd_edge.report.charts.common import (
    Chart,
    Figure,
    MarkerStyles,
    assign_marker_styles,
    escape_label,
    make_axis,
    make_layout,
)
from skd_edge.report.charts.label_placement import place_labels
from skd_edge.report.schema import CandidateReport, RunReport
from skd_edge.report.summary import NumberedCandidate

_RING_SIZE = 25.0
_SCREEN_SIZES = ((280, 350), (560, 350), (1000, 350))


def build_tradeoff_chart(report: RunReport) -> Chart | None:
    """The metric of the choice against p50 latency, with intervals of both; None if no candidate has a latency."""
    report = summary.plot_score_as_accuracy(report)
    entries = [n for n in summary.number_candidates(report) if n.candidate.p50_ms and n.candidate.p50_ms > 0]
    if not entries:
        return None
    baselines = [b for b in report.baselines if b.p50_ms and b.p50_ms > 0 and b.accuracy is not None]
    ranges = _AxisRanges.from_points(
        [n.candidate for n in entries] + baselines, report.budget.ms if report.budget else None
    )
    trained = [n for n in entries if n.candidate.accuracy is not None]
    untrained = [n for n in entries if n.candidate.accuracy is None]
    traces = [
        *_make_candidate_traces(trained, assign_marker_styles(report.candidates)),
        _make_baseline_trace(baselines),
        _make_untrained_trace(untrained, ranges),
        _make_chosen_trace(trained),
    ]
    layout = _make_tradeoff_layout(report, ranges)
    layout["annotations"] = (
        _make_budget_annotations(report, ranges)
        + _make_point_labels(trained, baselines, ranges)
        + _make_untrained_labels(untrained, ranges)
    )
    return Chart(
        {"data": [t for t in (_make_front_trace(trained, ranges), *traces) if t], "layout": layout},
        _format_tradeoff_alt_text(report),
        470,
    )


@dataclass(frozen=True)
class _AxisRanges:
    """The ranges of both axes.

    Attributes:
        x: Milliseconds.
        y: Accuracy in percent.
        log: Whether the x axis is logarithmic, which is the case if latencies differ by more than a factor of 5.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    log: bool

    @classmethod
    def from_points(cls, points: Sequence[CandidateReport], budget: float | None) -> _AxisRanges:
        ms = [p.p50_ms for p in points if p.p50_ms] + ([budget] if budget else [])
        ends = [100 * v for p in points for v in (*(p.interval or ()), p.accuracy) if v is not None] or [0.0, 100.0]
        low, high = min(ends), max(ends)
        margin = max(4.0, 0.14 * (high - low))
        log = max(ms) / min(ms) > 5
        x = (min(ms) / 1.35, max(ms) * 1.45) if log else (0.0, max(ms) * 1.14)
        return cls(x, (math.floor(low - margin), math.ceil(high + 0.8 * margin)), log)

    def plot_position(self, ms: float, percent: float) -> tuple[float, float]:
        """Position of a point in the plot, 0..1, x to the right and y down."""
        scale = math.log if self.log else float
        x = (scale(ms) - scale(self.x[0])) / (scale(self.x[1]) - scale(self.x[0]))
        return x, 1 - (percent - self.y[0]) / (self.y[1] - self.y[0])

    def axis_value(self, ms: float) -> float:
        """A latency as Plotly expects it in ranges and annotations: on a log axis its logarithm (but not in shapes)."""
        return math.log10(ms) if self.log else ms

    def latency_ticks(self) -> list[float]:
        """Round latencies within the range: 1, 2 and 5 of each decade, few enough for a phone."""
        low, high = self.x
        decades = range(math.floor(math.log10(low or 1e-3)), math.ceil(math.log10(high)) + 1)
        return [m * 10.0**d for d in decades for m in (1, 2, 5) if low <= m * 10.0**d <= high]


def _make_front_trace(trained: Sequence[NumberedCandidate], ranges: _AxisRanges) -> Figure | None:
    front = sorted(
        (n.candidate.p50_ms or 0.0, 100 * (n.candidate.accuracy or 0.0)) for n in trained if n.candidate.on_front
    )
    if not front:
        return None
    ends = [(front[0][0], ranges.y[0]), *front, (ranges.x[1], front[-1][1])]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [x for x, _ in ends],
        "y": [y for _, y in ends],
        "line": {"shape": "hv", "color": "var(--muted)", "width": 1.5, "dash": "dot"},
        "hoverinfo": "skip",
        "name": "Pareto front",
    }


def _make_candidate_traces(trained: Sequence[NumberedCandidate], marker_styles: MarkerStyles) -> list[Figure]:
    traces = []
    for key, style in marker_styles.items():
        matching = [n for n in trained if (n.candidate.student, n.candidate.precision, n.candidate.runtime) == key]
        if not matching:
            continue
        trace = _make_point_trace([n.candidate for n in matching]) | {
            "hovertext": [_format_hover_text(n.candidate, n.number) for n in matching]
        }
        # Plotly draws the dot in the colour of the line; on a filled shape it needs another colour to be visible.
        bright = style.dotted and style.filled
        line = {"width": 1.4, "color": "var(--card)"} if bright else {"width": 2, "color": style.colour}
        trace["marker"] = {
            "symbol": style.plotly_symbol,
            "color": style.colour,
            "size": 14 if bright else 11,
            "line": line,
        }
        trace["marker"]["opacity"] = [1.0 if n.candidate.eligible else 0.45 for n in matching]
        where = f" on {escape_label(style.runtime)}" if style.runtime else ""
        traces.append(trace | {"name": f"{escape_label(style.student)} {escape_label(style.precision)}{where}"})
    return traces


def _make_baseline_trace(baselines: Sequence[CandidateReport]) -> Figure | None:
    if not baselines:
        return None
    trace = _make_point_trace(baselines) | {
        "hovertext": [_format_hover_text(b, None) for b in baselines],
        "name": "baseline",
    }
    return trace | {"marker": {"symbol": "star", "color": "var(--muted)", "size": 14}}


def _make_point_trace(points: Sequence[CandidateReport]) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [c.p50_ms for c in points],
        "y": [100 * (c.accuracy or 0.0) for c in points],
        "error_x": _make_error_bars([(c.p50_ms, c.p50_interval) for c in points], 1.0),
        "error_y": _make_error_bars([(c.accuracy, c.interval) for c in points], 100.0),
        "cliponaxis": False,
        "hoverinfo": "text",
    }


def _make_point_labels(
    trained: Sequence[NumberedCandidate], baselines: Sequence[CandidateReport], ranges: _AxisRanges
) -> list[Figure]:
    """Numbers of the candidates and names of the baselines, placed for phones and for large screens."""
    texts = [str(n.number) for n in trained] + [f.shorten_text(b.name, 14) for b in baselines]
    sizes = [_RING_SIZE if n.candidate.chosen else 13.0 for n in trained] + [15.0] * len(baselines)
    points = [(c.p50_ms or 0.0, 100 * (c.accuracy or 0.0)) for c in (*(n.candidate for n in trained), *baselines)]
    shifts = place_labels([ranges.plot_position(*p) for p in points], texts, sizes, areas=_SCREEN_SIZES)
    return [
        _make_text_annotation(ranges.axis_value(ms), y, escape_label(text, 14), "var(--ink)")
        | {"xshift": right, "yshift": -down}
        for (ms, y), text, (right, down) in zip(points, texts, shifts, strict=True)
    ]


def _make_untrained_labels(untrained: Sequence[NumberedCandidate], ranges: _AxisRanges) -> list[Figure]:
    """Numbers above the crosses of untrained candidates: crosses that nearly coincide share a text."""
    groups: list[tuple[float, list[str]]] = []
    for n in sorted(untrained, key=lambda n: n.candidate.p50_ms or 0.0):
        ms = n.candidate.p50_ms or 0.0
        if groups and ranges.plot_position(ms, 0)[0] - ranges.plot_position(groups[-1][0], 0)[0] < 0.05:
            groups[-1][1].append(str(n.number))
        else:
            groups.append((ms, [str(n.number)]))
    marks = []
    right, level = -math.inf, 0
    for ms, numbers in groups:
        text = ", ".join(numbers)
        at, half = 280 * ranges.plot_position(ms, 0)[0], 4.0 * len(text) + 2
        level = level + 1 if at - half < right else 0
        right = at + half
        marks.append(
            _make_text_annotation(ranges.axis_value(ms), ranges.y[0], text, "var(--soft)") | {"yshift": 16 + 16 * level}
        )
    return marks


def _make_text_annotation(x: float, y: float, text: str, colour: str) -> Figure:
    """A text without an arrow, on a background that hides the lines behind it."""
    font = {"size": 12.5, "color": colour}
    return {"x": x, "y": y, "text": text, "showarrow": False, "font": font, "bgcolor": "var(--veil)", "borderpad": 0}


def _make_error_bars(values: Sequence[tuple[float | None, tuple[float, float] | None]], scale: float) -> Figure:
    up = [scale * max(0.0, i[1] - v) if i and v is not None else 0.0 for v, i in values]
    down = [scale * max(0.0, v - i[0]) if i and v is not None else 0.0 for v, i in values]
    return {
        "type": "data",
        "symmetric": False,
        "array": up,
        "arrayminus": down,
        "thickness": 1,
        "width": 3,
        "color": "var(--whisker)",
    }


def _make_untrained_trace(untrained: Sequence[NumberedCandidate], ranges: _AxisRanges) -> Figure | None:
    if not untrained:
        return None
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [n.candidate.p50_ms for n in untrained],
        "y": [ranges.y[0]] * len(untrained),
        "marker": {"symbol": "x", "size": 10, "color": "var(--muted)"},
        "cliponaxis": False,
        "hoverinfo": "text",
        "hovertext": [_format_hover_text(n.candidate, n.number) for n in untrained],
        "name": "not trained",
    }


def _make_chosen_trace(trained: Sequence[NumberedCandidate]) -> Figure | None:
    chosen = [n.candidate for n in trained if n.candidate.chosen]
    if not chosen:
        return None
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [c.p50_ms for c in chosen],
        "y": [100 * (c.accuracy or 0.0) for c in chosen],
        "marker": {"symbol": "circle-open", "size": _RING_SIZE, "color": "var(--accent)", "line": {"width": 3}},
        "hoverinfo": "skip",
        "cliponaxis": False,
        "name": "chosen",
    }


def _make_tradeoff_layout(report: RunReport, ranges: _AxisRanges) -> Figure:
    x = make_axis("p50 latency, ms" + (" (log scale)" if ranges.log else ""))
    x |= {"type": "log" if ranges.log else "linear", "range": [ranges.axis_value(v) for v in ranges.x]}
    if ranges.log:
        x |= {
            "tickmode": "array",
            "tickvals": ranges.latency_ticks(),
            "ticktext": [f"{t:g}" for t in ranges.latency_ticks()],
        }
    layout = make_layout(
        xaxis=x, yaxis=make_axis(f"validation {summary.name_metric(report)}, %") | {"range": list(ranges.y)}
    )
    layout["margin"] = {"l": 54, "r": 14, "t": 26, "b": 52}
    budget = report.budget.ms if report.budget else None
    if budget:
        line = {"color": "var(--warn)", "width": 2, "dash": "dash"}
        layout["shapes"] = [
            {"type": "line", "x0": budget, "x1": budget, "yref": "paper", "y0": 0, "y1": 1, "line": line}
        ]
    return layout


def _make_budget_annotations(report: RunReport, ranges: _AxisRanges) -> list[Figure]:
    budget = report.budget.ms if report.budget else None
    if not budget:
        return []
    mark = _make_text_annotation(ranges.axis_value(budget), 1, f"budget {f.format_milliseconds(budget)}", "var(--warn)")
    side = "right" if ranges.plot_position(budget, 0)[0] > 0.6 else "left"
    return [mark | {"yref": "paper", "yanchor": "bottom", "xanchor": side}]


def _format_tradeoff_alt_text(report: RunReport) -> str:
    trained = [c for c in report.candidates if c.accuracy is not None]
    metric = summary.name_metric(report)
    text = f"{metric[0].upper()}{metric[1:]} against latency of {len(report.candidates)} candidates, "
    text += f"{len(trained)} of them trained."
    if report.chosen:
        chosen = report.chosen
        text += (
            f" Chosen: {chosen.name}, {f.format_percent(chosen.accuracy)} at {f.format_milliseconds(chosen.p50_ms)}."
        )
    return text + " The table of candidates has all numbers."


def _format_hover_text(c: CandidateReport, number: int | None) -> str:
    lines = [f"<b>{'' if number is None else f'{number} · '}{escape_label(c.name, 60)}</b>"]
    accuracy = (
        "not trained" if c.accuracy is None else f"{f.format_percent(c.accuracy)}  {f.format_percent_range(c.interval)}"
    )
    lines += [accuracy, f"p50 {f.format_milliseconds(c.p50_ms)}  {f.format_milliseconds_range(c.p50_interval)}"]
    return "<br>".join([*lines, *([escape_label(c.reason, 80)] if c.reason else [])])
