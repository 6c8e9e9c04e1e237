"""Accuracy against latency: every candidate with its intervals, the Pareto front and the budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from skd_edge.report import formatting as f
from skd_edge.report import summary
from skd_edge.report.charts.common import Chart, Drawn, Figure, axis, label, layout_of, signs
from skd_edge.report.charts.label_placement import place_labels
from skd_edge.report.schema import Candidate, Result
from skd_edge.report.summary import Numbered

_RING = 25.0
_SCREENS = ((280, 350), (560, 350), (1000, 350))


def tradeoff(result: Result) -> Chart | None:
    """Accuracy against p50 latency, with intervals both ways; None when no candidate has a latency."""
    entries = [n for n in summary.numbered(result) if n.it.p50_ms and n.it.p50_ms > 0]
    if not entries:
        return None
    baselines = [b for b in result.baselines if b.p50_ms and b.p50_ms > 0 and b.accuracy is not None]
    frame = _Frame.around([n.it for n in entries] + baselines, result.budget.ms if result.budget else None)
    shown = [n for n in entries if n.it.accuracy is not None]
    floor = [n for n in entries if n.it.accuracy is None]
    drawn = [
        *_candidates(shown, signs(result.candidates)),
        _baselines(baselines),
        _untrained(floor, frame),
        _ring(shown),
    ]
    layout = _tradeoff_layout(result, frame)
    layout["annotations"] = _budget_mark(result, frame) + _labels(shown, baselines, frame) + _floor_labels(floor, frame)
    return Chart(
        {"data": [t for t in (_front(shown, frame), *drawn) if t], "layout": layout}, _tradeoff_alt(result), 470
    )


@dataclass(frozen=True)
class _Frame:
    """The ranges of both axes: milliseconds (log where they span much) and accuracy in percent."""

    x: tuple[float, float]
    y: tuple[float, float]
    log: bool

    @classmethod
    def around(cls, points: Sequence[Candidate], budget: float | None) -> _Frame:
        ms = [p.p50_ms for p in points if p.p50_ms] + ([budget] if budget else [])
        ends = [100 * v for p in points for v in (*(p.interval or ()), p.accuracy) if v is not None] or [0.0, 100.0]
        low, high = min(ends), max(ends)
        room = max(4.0, 0.14 * (high - low))
        log = max(ms) / min(ms) > 5
        x = (min(ms) / 1.35, max(ms) * 1.45) if log else (0.0, max(ms) * 1.14)
        return cls(x, (math.floor(low - room), math.ceil(high + 0.8 * room)), log)

    def place(self, ms: float, percent: float) -> tuple[float, float]:
        """A point in 0..1 of the plot, x to the right and y down."""
        scale = math.log if self.log else float
        x = (scale(ms) - scale(self.x[0])) / (scale(self.x[1]) - scale(self.x[0]))
        return x, 1 - (percent - self.y[0]) / (self.y[1] - self.y[0])

    def axis(self, ms: float) -> float:
        """A latency as ranges and annotations want it: on a log axis its logarithm (shapes take the plain value)."""
        return math.log10(ms) if self.log else ms

    def ticks(self) -> list[float]:
        """Round latencies within the range; on a log axis as many as a phone has room for."""
        low, high = self.x
        decades = range(math.floor(math.log10(low or 1e-3)), math.ceil(math.log10(high)) + 1)
        return [m * 10.0**d for d in decades for m in (1, 2, 5) if low <= m * 10.0**d <= high]


def _front(shown: Sequence[Numbered], frame: _Frame) -> Figure | None:
    front = sorted((n.it.p50_ms or 0.0, 100 * (n.it.accuracy or 0.0)) for n in shown if n.it.on_front)
    if not front:
        return None
    ends = [(front[0][0], frame.y[0]), *front, (frame.x[1], front[-1][1])]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [x for x, _ in ends],
        "y": [y for _, y in ends],
        "line": {"shape": "hv", "color": "var(--muted)", "width": 1.5, "dash": "dot"},
        "hoverinfo": "skip",
        "name": "Pareto front",
    }


def _candidates(shown: Sequence[Numbered], drawn_as: Drawn) -> list[Figure]:
    traces = []
    for key, sign in drawn_as.items():
        mine = [n for n in shown if (n.it.student, n.it.precision, n.it.runtime) == key]
        if not mine:
            continue
        trace = _points([n.it for n in mine]) | {"hovertext": [_hover(n.it, n.number) for n in mine]}
        # Plotly draws the dot in the line's colour: on a filled shape it must be another one to be seen.
        bright = sign.dotted and sign.filled
        line = {"width": 1.4, "color": "var(--card)"} if bright else {"width": 2, "color": sign.colour}
        trace["marker"] = {"symbol": sign.plotly, "color": sign.colour, "size": 14 if bright else 11, "line": line}
        trace["marker"]["opacity"] = [1.0 if n.it.eligible else 0.45 for n in mine]
        where = f" on {label(sign.runtime)}" if sign.runtime else ""
        traces.append(trace | {"name": f"{label(sign.student)} {label(sign.precision)}{where}"})
    return traces


def _baselines(baselines: Sequence[Candidate]) -> Figure | None:
    if not baselines:
        return None
    trace = _points(baselines) | {"hovertext": [_hover(b, None) for b in baselines], "name": "baseline"}
    return trace | {"marker": {"symbol": "star", "color": "var(--muted)", "size": 14}}


def _points(points: Sequence[Candidate]) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [c.p50_ms for c in points],
        "y": [100 * (c.accuracy or 0.0) for c in points],
        "error_x": _bars([(c.p50_ms, c.p50_interval) for c in points], 1.0),
        "error_y": _bars([(c.accuracy, c.interval) for c in points], 100.0),
        "cliponaxis": False,
        "hoverinfo": "text",
    }


def _labels(shown: Sequence[Numbered], baselines: Sequence[Candidate], frame: _Frame) -> list[Figure]:
    """A number at each candidate and a name at each baseline, placed for a telephone and for a desk at once."""
    texts = [str(n.number) for n in shown] + [f.short(b.name, 14) for b in baselines]
    sizes = [_RING if n.it.chosen else 13.0 for n in shown] + [15.0] * len(baselines)
    points = [(c.p50_ms or 0.0, 100 * (c.accuracy or 0.0)) for c in (*(n.it for n in shown), *baselines)]
    shifts = place_labels([frame.place(*p) for p in points], texts, sizes, areas=_SCREENS)
    return [
        _text_at(frame.axis(ms), y, label(text, 14), "var(--ink)") | {"xshift": right, "yshift": -down}
        for (ms, y), text, (right, down) in zip(points, texts, shifts, strict=True)
    ]


def _floor_labels(floor: Sequence[Numbered], frame: _Frame) -> list[Figure]:
    """Numbers above the crosses at the axis: one text for crosses on one spot, higher where it would touch the last."""
    groups: list[tuple[float, list[str]]] = []
    for n in sorted(floor, key=lambda n: n.it.p50_ms or 0.0):
        ms = n.it.p50_ms or 0.0
        if groups and frame.place(ms, 0)[0] - frame.place(groups[-1][0], 0)[0] < 0.05:
            groups[-1][1].append(str(n.number))
        else:
            groups.append((ms, [str(n.number)]))
    marks = []
    right, level = -math.inf, 0
    for ms, numbers in groups:
        text = ", ".join(numbers)
        at, half = 280 * frame.place(ms, 0)[0], 4.0 * len(text) + 2
        level = level + 1 if at - half < right else 0
        right = at + half
        marks.append(_text_at(frame.axis(ms), frame.y[0], text, "var(--soft)") | {"yshift": 16 + 16 * level})
    return marks


def _text_at(x: float, y: float, text: str, colour: str) -> Figure:
    """A text without an arrow; its ground hides the lines that pass behind it."""
    font = {"size": 12.5, "color": colour}
    return {"x": x, "y": y, "text": text, "showarrow": False, "font": font, "bgcolor": "var(--veil)", "borderpad": 0}


def _bars(values: Sequence[tuple[float | None, tuple[float, float] | None]], scale: float) -> Figure:
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


def _untrained(floor: Sequence[Numbered], frame: _Frame) -> Figure | None:
    if not floor:
        return None
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [n.it.p50_ms for n in floor],
        "y": [frame.y[0]] * len(floor),
        "marker": {"symbol": "x", "size": 10, "color": "var(--muted)"},
        "cliponaxis": False,
        "hoverinfo": "text",
        "hovertext": [_hover(n.it, n.number) for n in floor],
        "name": "not trained",
    }


def _ring(shown: Sequence[Numbered]) -> Figure | None:
    mine = [n.it for n in shown if n.it.chosen]
    if not mine:
        return None
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [c.p50_ms for c in mine],
        "y": [100 * (c.accuracy or 0.0) for c in mine],
        "marker": {"symbol": "circle-open", "size": _RING, "color": "var(--accent)", "line": {"width": 3}},
        "hoverinfo": "skip",
        "cliponaxis": False,
        "name": "chosen",
    }


def _tradeoff_layout(result: Result, frame: _Frame) -> Figure:
    x = axis("p50 latency, ms" + (" (log scale)" if frame.log else ""))
    x |= {"type": "log" if frame.log else "linear", "range": [frame.axis(v) for v in frame.x]}
    if frame.log:
        x |= {"tickmode": "array", "tickvals": frame.ticks(), "ticktext": [f"{t:g}" for t in frame.ticks()]}
    layout = layout_of(xaxis=x, yaxis=axis("validation accuracy, %") | {"range": list(frame.y)})
    layout["margin"] = {"l": 54, "r": 14, "t": 26, "b": 52}
    budget = result.budget.ms if result.budget else None
    if budget:
        line = {"color": "var(--warn)", "width": 2, "dash": "dash"}
        layout["shapes"] = [
            {"type": "line", "x0": budget, "x1": budget, "yref": "paper", "y0": 0, "y1": 1, "line": line}
        ]
    return layout


def _budget_mark(result: Result, frame: _Frame) -> list[Figure]:
    budget = result.budget.ms if result.budget else None
    if not budget:
        return []
    mark = _text_at(frame.axis(budget), 1, f"budget {f.milliseconds(budget)}", "var(--warn)")
    side = "right" if frame.place(budget, 0)[0] > 0.6 else "left"
    return [mark | {"yref": "paper", "yanchor": "bottom", "xanchor": side}]


def _tradeoff_alt(result: Result) -> str:
    trained = [c for c in result.candidates if c.accuracy is not None]
    said = f"Accuracy against latency of {len(result.candidates)} candidates, {len(trained)} of them trained."
    if result.chosen:
        chosen = result.chosen
        said += f" Chosen: {chosen.name}, {f.percent(chosen.accuracy)} at {f.milliseconds(chosen.p50_ms)}."
    return said + " All numbers are in the table of candidates."


def _hover(c: Candidate, number: int | None) -> str:
    lines = [f"<b>{'' if number is None else f'{number} · '}{label(c.name, 60)}</b>"]
    accuracy = "not trained" if c.accuracy is None else f"{f.percent(c.accuracy)}  {f.percent_range(c.interval)}"
    lines += [accuracy, f"p50 {f.milliseconds(c.p50_ms)}  {f.milliseconds_range(c.p50_interval)}"]
    return "<br>".join([*lines, *([label(c.reason, 80)] if c.reason else [])])
