"""What every chart shares: the figure and its words, signs of students, axes and layout.

Colours are written as `var(--name)`: the page's script puts in what the style sheet says, for light, dark and print.
Text that comes from outside (class names, file names) is escaped here, because Plotly reads a little HTML in it.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from skd_edge.report import formatting as f
from skd_edge.report.schema import CandidateReport

Figure = dict[str, Any]
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon", "hexagon")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
COLOUR_COUNT = 6
"""Students have the style sheet's colours --s1 .. --s6, and a shape each: colour is never the only difference."""


@dataclass(frozen=True)
class Chart:
    """A figure, what it shows in words (for those who do not see it), and how tall it is in pixels."""

    figure: Figure
    alt: str
    height: int = 420


@dataclass(frozen=True)
class MarkerStyle:
    """How a student at a precision on a runtime is drawn: shape, open or filled, colour, a dot in the middle.

    Attributes:
        runtime: Empty where all candidates run on one.
    """

    student: str
    precision: str
    symbol: str
    filled: bool
    colour: str
    runtime: str = ""
    dotted: bool = False

    @property
    def plotly_symbol(self) -> str:
        """Plotly's name of the shape."""
        return self.symbol + ("" if self.filled else "-open") + ("-dot" if self.dotted else "")

    @property
    def legend_text(self) -> str:
        """As the legend names it."""
        return f"{self.student} {self.precision.upper()}" + (f" on {self.runtime}" if self.runtime else "")


MarkerStyles = dict[tuple[str, str, str], MarkerStyle]
"""Signs by student, precision and runtime."""


def assign_marker_styles(candidates: Sequence[CandidateReport]) -> MarkerStyles:
    """Signs of all candidates: the student gives shape and colour, INT8 is open, another runtime than ort dotted."""
    students = list(dict.fromkeys(c.student for c in sorted(candidates, key=lambda c: c.student)))
    runtimes = sorted({c.runtime for c in candidates}, key=lambda r: (r != "ort", r))
    styles = {}
    for c in sorted(candidates, key=lambda c: (c.student, c.precision, runtimes.index(c.runtime))):
        i, several = students.index(c.student), len(runtimes) > 1
        styles[c.student, c.precision, c.runtime] = MarkerStyle(
            c.student,
            c.precision,
            SYMBOLS[i % len(SYMBOLS)],
            c.precision != "int8",
            f"var(--s{i % COLOUR_COUNT + 1})",
            c.runtime if several else "",
            c.runtime != runtimes[0],
        )
    return styles


def make_axis(title: str) -> Figure:
    """An axis with its title, quiet lines and room for its labels."""
    return {
        "title": {"text": title, "font": {"size": 13}, "standoff": 10},
        "gridcolor": "var(--line)",
        "zeroline": False,
        "linecolor": "var(--line)",
        "fixedrange": True,
        "automargin": True,
    }


def make_layout(**axes: Figure) -> Figure:
    """A layout with these axes: the page's type, no legend, no dragging."""
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


def escape_label(text: str, max_length: int = 24) -> str:
    """Text from outside, made short and harmless: Plotly reads tags such as <b> and <a href>."""
    return html.escape(f.shorten_text(" ".join(text.split()), max_length), quote=False)


def make_vertical_line(ms: float) -> Figure:
    """A dotted line at a latency, across the plot."""
    line = {"color": "var(--warn)", "width": 1.5, "dash": "dot"}
    return {"type": "line", "x0": ms, "x1": ms, "yref": "paper", "y0": 0, "y1": 0.95, "line": line}


def make_line_style(index: int, width: float = 2.0) -> Figure:
    """The line of the series with this number (from 0): colour and dashes both differ, for print in black."""
    return {
        "color": f"var(--s{index % COLOUR_COUNT + 1})",
        "dash": DASHES[index % len(DASHES)],
        "width": width,
    }


def add_legend(layout: Figure) -> Figure:
    """The layout with Plotly's own legend above the plot."""
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0, "font": {"size": 12}, "itemclick": False}
    margin = layout["margin"] | {"t": 66}
    return layout | {"showlegend": True, "legend": legend | {"itemdoubleclick": False}, "margin": margin}
