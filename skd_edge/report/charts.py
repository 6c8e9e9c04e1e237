"""The charts of the page as Plotly figures: plain JSON objects, drawn in the browser by the bundled plotly.js.

Colours are written as `var(--name)`: the page's script puts in what the style sheet says, for light, dark and print.
Text that comes from outside (class names, file names) is escaped here, because Plotly reads a little HTML in it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skd_edge.report import formats as f
from skd_edge.report import summary
from skd_edge.report.placing import place_labels
from skd_edge.report.result import Candidate, Result
from skd_edge.report.summary import Numbered

Figure = dict[str, Any]
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon", "hexagon")
COLOURS = 6
_RING = 25.0
"""Students have the style sheet's colours --s1 .. --s6, and a shape each: colour is never the only difference."""


@dataclass(frozen=True)
class Chart:
    """A figure, what it shows in words (for those who do not see it), and how tall it is in pixels."""

    figure: Figure
    alt: str
    height: int = 420


@dataclass(frozen=True)
class Sign:
    """How a student at a precision is drawn: shape, open or filled, colour."""

    student: str
    precision: str
    symbol: str
    filled: bool
    colour: str

    @property
    def plotly(self) -> str:
        """Plotly's name of the shape."""
        return self.symbol if self.filled else f"{self.symbol}-open"


def signs(candidates: Sequence[Candidate]) -> dict[tuple[str, str], Sign]:
    """A sign for each student and precision: the student gives shape and colour, INT8 is open."""
    students = list(dict.fromkeys(c.student for c in sorted(candidates, key=lambda c: c.student)))
    found = {}
    for c in sorted(candidates, key=lambda c: (c.student, c.precision)):
        i = students.index(c.student)
        sign = Sign(
            c.student, c.precision, SYMBOLS[i % len(SYMBOLS)], c.precision != "int8", f"var(--s{i % COLOURS + 1})"
        )
        found[c.student, c.precision] = sign
    return found


# ------------------------------------------------------------------------------------- accuracy and latency
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


def _candidates(shown: Sequence[Numbered], drawn_as: dict[tuple[str, str], Sign]) -> list[Figure]:
    traces = []
    for (student, precision), sign in drawn_as.items():
        mine = [n for n in shown if (n.it.student, n.it.precision) == (student, precision)]
        if not mine:
            continue
        trace = _points([n.it for n in mine]) | {"hovertext": [_hover(n.it, n.number) for n in mine]}
        line = {"width": 2, "color": sign.colour}
        trace["marker"] = {"symbol": sign.plotly, "color": sign.colour, "size": 11, "line": line}
        trace["marker"]["opacity"] = [1.0 if n.it.eligible else 0.45 for n in mine]
        traces.append(trace | {"name": f"{_label(student)} {_label(precision)}"})
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
    """A number at each candidate and a name at each baseline, placed for the narrowest screen."""
    texts = [str(n.number) for n in shown] + [f.short(b.name, 14) for b in baselines]
    sizes = [_RING if n.it.chosen else 13.0 for n in shown] + [15.0] * len(baselines)
    points = [(c.p50_ms or 0.0, 100 * (c.accuracy or 0.0)) for c in (*(n.it for n in shown), *baselines)]
    shifts = place_labels([frame.place(*p) for p in points], texts, sizes, area=(280, 350))
    return [
        _text_at(frame.axis(ms), y, _label(text, 14), "var(--ink)") | {"xshift": right, "yshift": -down}
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
    x = _axis("p50 latency, ms" + (" (log scale)" if frame.log else ""))
    x |= {"type": "log" if frame.log else "linear", "range": [frame.axis(v) for v in frame.x]}
    if frame.log:
        x |= {"tickmode": "array", "tickvals": frame.ticks(), "ticktext": [f"{t:g}" for t in frame.ticks()]}
    layout = _layout(xaxis=x, yaxis=_axis("validation accuracy, %") | {"range": list(frame.y)})
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
    lines = [f"<b>{'' if number is None else f'{number} · '}{_label(c.name, 60)}</b>"]
    accuracy = "not trained" if c.accuracy is None else f"{f.percent(c.accuracy)}  {f.percent_range(c.interval)}"
    lines += [accuracy, f"p50 {f.milliseconds(c.p50_ms)}  {f.milliseconds_range(c.p50_interval)}"]
    return "<br>".join([*lines, *([_label(c.reason, 80)] if c.reason else [])])


# ------------------------------------------------------------------------------------------------- latency
def latency(result: Result) -> Chart | None:
    """How the chosen file's queries were spread: a histogram above the share answered by then."""
    chosen = result.chosen
    samples = np.sort(np.asarray(result.latency_samples.get(chosen.name, []) if chosen else [], dtype=float))
    if chosen is None or len(samples) < 2:
        return None
    end = max(float(np.quantile(samples, 0.995)), *(p for p in (chosen.p50_ms, chosen.p99_ms) if p)) * 1.03
    beyond = int((samples > end).sum())
    counts, edges = np.histogram(samples[samples <= end], bins=min(60, max(10, int(len(samples) ** 0.5))))
    steps = np.linspace(0, len(samples) - 1, min(300, len(samples))).round().astype(int)
    lines = [(name, ms) for name, ms in (("p50", chosen.p50_ms), ("p90", chosen.p90_ms), ("p99", chosen.p99_ms)) if ms]
    start = float(samples[0]) - 0.02 * (end - float(samples[0]))
    layout = _layout(
        xaxis=_axis("milliseconds a query") | {"range": [start, end], "anchor": "y2"},
        yaxis=_axis("queries") | {"domain": [0.5, 0.93]},
        yaxis2=_axis("answered, %") | {"domain": [0.0, 0.4], "range": [0, 104], "tickvals": [0, 50, 90]},
    )
    layout |= {"bargap": 0.06, "shapes": [_upright(ms) for _, ms in lines], "annotations": _marks(lines, start, end)}
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
    said = f"Latency of {len(samples)} queries: " + ", ".join(f"{n} {f.milliseconds(ms)}" for n, ms in lines) + "."
    if beyond:
        said += f" {beyond} slower {'query lies' if beyond == 1 else 'queries lie'} beyond the right edge."
    return Chart({"data": [bars, curve], "layout": layout}, said, 400)


def _upright(ms: float) -> Figure:
    line = {"color": "var(--warn)", "width": 1.5, "dash": "dot"}
    return {"type": "line", "x0": ms, "x1": ms, "yref": "paper", "y0": 0, "y1": 0.95, "line": line}


def _marks(lines: Sequence[tuple[str, float]], start: float, end: float) -> list[Figure]:
    """The percentiles' names above their lines; one that would touch its left neighbour steps up."""
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


# -------------------------------------------------------------------------------------- labels and confusion
def class_shares(result: Result, most: int = 30) -> Chart | None:
    """Shares of the classes before and after label optimisation; the most changed ones where there are many."""
    labels = result.labels
    if labels is None or not (labels.class_shares_before or labels.class_shares_after):
        return None
    before, after = labels.class_shares_before, labels.class_shares_after
    names = list(dict.fromkeys([*before, *after]))
    if len(names) > most:
        names = sorted(names, key=lambda n: -abs((after.get(n) or 0.0) - (before.get(n) or 0.0)))[:most]
    series = [("before", before, "var(--whisker)", "/"), ("after", after, "var(--s1)", "")]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": list(range(len(names))),
            "x": [None if shares.get(n) is None else 100 * (shares[n] or 0.0) for n in names],
            "marker": {
                "color": colour,
                "pattern": {"shape": shape, "size": 5, "solidity": 0.35, "fgcolor": "var(--card)", "bgcolor": colour},
            },
            "hovertext": [f"{_label(n, 60)}: {f.percent(shares.get(n))} {name}" for n in names],
            "hoverinfo": "text",
        }
        for name, shares, colour, shape in series
        if shares
    ]
    layout = _layout(xaxis=_axis("share of the training clips, %") | {"rangemode": "tozero"}, yaxis=_classes(names))
    layout |= {"barmode": "group", "bargap": 0.32, "bargroupgap": 0.08}
    layout["margin"]["l"] = 10
    said = f"Class shares before and after, {len(names)} classes; largest change: {_largest_change(before, after)}."
    return Chart({"data": data, "layout": layout}, said, 90 + 34 * len(names))


def _largest_change(before: dict[str, float | None], after: dict[str, float | None]) -> str:
    both = {n: 100 * ((after[n] or 0.0) - (before[n] or 0.0)) for n in before if n in after}
    if not both:
        return f.UNKNOWN
    name = max(both, key=lambda n: abs(both[n]))
    return f"{name}, {f.points(both[name])} points"


def confusion(result: Result) -> Chart | None:
    """True against predicted class on the test set; None without a matrix."""
    if result.test is None or not result.test.confusion:
        return None
    names = summary.class_names(result)
    count = len(names)
    rows = result.test.confusion
    cells = [[(row[j] if j < len(row) else 0) or None for j in range(count)] for row in rows]
    totals = [max(1, sum(row)) for row in rows]
    heat = {
        "type": "heatmap",
        "z": [[100 * (v or 0) / total for v in row] for row, total in zip(cells, totals, strict=True)],
        "text": [["" if v is None else str(v) for v in row] for row in cells],
        "hovertext": [
            [f"{_label(names[i], 40)} → {_label(names[j], 40)}: {v or 0}" for j, v in enumerate(row)]
            for i, row in enumerate(cells)
        ],
        "hoverinfo": "text",
        "colorscale": [[0, "var(--heat0)"], [1, "var(--heat1)"]],
        "zmin": 0,
        "zmax": 100,
        "showscale": False,
        "xgap": 1 if count <= 60 else 0,
        "ygap": 1 if count <= 60 else 0,
    }
    if count <= 15:
        heat["texttemplate"] = "%{text}"
    x = _classes(names) | {"side": "top", "tickangle": -90, "autorange": True}
    y = _classes(names)
    layout = _layout(xaxis=x, yaxis=y)
    layout["margin"] = {"l": 10, "r": 10, "t": 10, "b": 10}
    worst = "; ".join(f"{a} taken for {b}, {n} clips" for a, b, n in summary.confusions(result, 3))
    said = f"Confusion matrix of {count} classes. Most frequent mistakes: {worst or 'none'}."
    return Chart({"data": [heat], "layout": layout}, said, min(820, 190 + (30 if count <= 15 else 14) * count))


def _classes(names: Sequence[str]) -> Figure:
    """An axis of class names by index: names may be numbers, dates or twins, which Plotly would take as such."""
    few = len(names) <= 45
    return {
        "tickmode": "array",
        "tickvals": list(range(len(names))) if few else [],
        "ticktext": [_label(n, 18) for n in names] if few else [],
        "autorange": "reversed",
        "automargin": True,
        "fixedrange": True,
        "gridcolor": "var(--line)",
        "showgrid": False,
        "zeroline": False,
        "ticks": "",
        "ticklabelstandoff": 4,
    }


# -------------------------------------------------------------------------------------------------- common
def _axis(title: str) -> Figure:
    return {
        "title": {"text": title, "font": {"size": 13}, "standoff": 10},
        "gridcolor": "var(--line)",
        "zeroline": False,
        "linecolor": "var(--line)",
        "fixedrange": True,
        "automargin": True,
    }


def _layout(**axes: Figure) -> Figure:
    return axes | {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {
            "family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
            "size": 12.5,
            "color": "var(--soft)",
        },
        "hoverlabel": {
            "bgcolor": "var(--card)",
            "bordercolor": "var(--line)",
            "font": {"color": "var(--ink)", "size": 13},
            "align": "left",
        },
        "margin": {"l": 54, "r": 14, "t": 14, "b": 50},
        "showlegend": False,
        "dragmode": False,
        "hovermode": "closest",
    }


def _label(text: str, most: int = 24) -> str:
    """Text from outside, made short and harmless: Plotly reads tags such as <b> and <a href>."""
    return html.escape(f.short(" ".join(text.split()), most), quote=False)
