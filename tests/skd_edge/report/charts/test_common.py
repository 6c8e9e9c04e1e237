"""Parts that charts share: marker styles, line styles, legend and escaping."""

from __future__ import annotations

from types import ModuleType

import plotly.graph_objects as go
import pytest

from skd_edge.report.charts.common import (
    COLOUR_COUNT,
    add_legend,
    assign_marker_styles,
    escape_label,
    make_axis,
    make_layout,
    make_line_style,
)
from skd_edge.report.schema import CandidateReport, parse_report


def test_precision_and_student_differ_by_more_than_colour(sample: ModuleType) -> None:
    styles = assign_marker_styles(parse_report(sample.full_result()).candidates)
    assert len({s.plotly_symbol for s in styles.values()}) == len(styles) == 6


def test_a_single_runtime_is_not_in_the_legend() -> None:
    candidates = [CandidateReport(name=p, student="s", precision=p, runtime="ort") for p in ("fp32", "int8")]
    styles = assign_marker_styles(candidates)
    assert [s.legend_text for s in styles.values()] == ["s FP32", "s INT8"]
    assert [s.plotly_symbol for s in styles.values()] == ["circle", "circle-open"]


def test_neighbouring_lines_differ_in_colour_and_dashes() -> None:
    styles = [make_line_style(i) for i in range(COLOUR_COUNT)]
    assert len({s["color"] for s in styles}) == len({s["dash"] for s in styles}) == COLOUR_COUNT


def test_plotly_accepts_layout_and_legend() -> None:
    layout = add_legend(make_layout(xaxis=make_axis("x"), yaxis=make_axis("y")))
    layout = {k: v for k, v in layout.items() if k not in ("font", "hoverlabel", "xaxis", "yaxis")}
    assert go.Figure({"data": [], "layout": layout}).layout.showlegend
    assert not make_layout()["showlegend"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<b>bold</b>", "&lt;b&gt;bold&lt;/b&gt;"),
        ('<a href="http://evil.example">', '&lt;a href="http…mple"&gt;'),
        ("a \n  b", "a b"),
    ],
)
def test_labels_are_escaped_and_shortened(text: str, expected: str) -> None:
    assert escape_label(text, 20) == expected
