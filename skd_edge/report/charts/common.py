"""Parts that all charts share: `Chart`, marker styles, axes, layout, legend and escaping.

Colours are given as `var(--name)`; the script of the page replaces them by the values of the style sheet, which differ
for light mode, dark mode and print. Names from the report (classes, files) are escaped, because Plotly interprets some
HTML tags in texts.
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
"""Number of colours in the style sheet, --s1 .. --s6. Series also differ in shape or dashes, not in colour alone."""


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        figure: The Plotly figure.
        alt: A description, for screen readers and for pages without JavaScript.
        height: Pixels.
    """

    figure: Figure
    alt: str
    height: int = 420


@dataclass(frozen=True)
class MarkerStyle:
    """How a student with a deployment (precision and runtime) is drawn.

    Attributes:
        student: Name of the student.
        precision: Precision.
        symbol: Shape, one of `SYMBOLS`.
        filled: Whether the shape is filled; an outline otherwise.
        colour: Colour as a CSS variable.
        runtime: Runtime; empty if all candidates have the same.
        dotted: Whether the shape has a dot in its middle.
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
        """Plotly's name of the symbol."""
        return self.symbol + ("" if self.filled else "-open") + ("-dot" if self.dotted else "")

    @property
    def legend_text(self) -> str:
        """Text in the legend."""
        return f"{self.student} {self.precision.upper()}" + (f" on {self.runtime}" if self.runtime else "")


MarkerStyles = dict[tuple[str, str, str], MarkerStyle]
"""Marker styles by student, precision and runtime."""


def assign_marker_styles(candidates: Sequence[CandidateReport]) -> MarkerStyles:
    """Styles for all candidates: shape and colour by student, INT8 as an outline, further runtimes with a dot."""
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
    """An axis with a title, thin grid lines and automatic margins."""
    return {
        "title": {"text": title, "font": {"size": 13}, "standoff": 10},
        "gridcolor": "var(--line)",
        "zeroline": False,
        "linecolor": "var(--line)",
        "fixedrange": True,
        "automargin": True,
    }


def make_layout(**axes: Figure) -> Figure:
    """A layout with these axes, in the font and colours of the page, without legend and dragging."""
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
    """A text shortened and escaped for Plotly, which interprets tags such as <b> and <a href>."""
    return html.escape(f.shorten_text(" ".join(text.split()), max_length), quote=False)


def make_vertical_line(ms: float) -> Figure:
    """A dotted vertical line at a latency in milliseconds."""
    line = {"color": "var(--warn)", "width": 1.5, "dash": "dot"}
    return {"type": "line", "x0": ms, "x1": ms, "yref": "paper", "y0": 0, "y1": 0.95, "line": line}


def make_line_style(index: int, width: float = 2.0) -> Figure:
    """The line of series ``index`` (from 0). Dashes differ too, so that a print without colour is readable."""
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
