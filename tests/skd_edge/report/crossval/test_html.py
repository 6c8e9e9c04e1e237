"""The HTML page of a cross-validation: self-contained, escaped, and complete."""

from __future__ import annotations

import re

from skd_edge.report.crossval.html import render_crossval_html


def test_the_page_is_self_contained_and_escapes_what_it_is_given(report):
    page = render_crossval_html(report)
    assert render_crossval_html(report) == page
    assert "no &lt;b&gt;training&lt;/b&gt; clip" in page
    assert "<b>training" not in page
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page)
    assert "<script" not in page
    assert re.findall(r'<a href="([^"]+)"', page) == [f"folds/{n}/report.html" for n in (1, 2, 3)]


def test_the_sections(report):
    page = render_crossval_html(report)
    assert re.findall(r'<section id="(\w+)"', page) == ["failed", "pooled", "folds", "classes", "device", "notes"]
    assert "2 of 3 folds" in page
    nothing = report.model_copy(update={"pooled": [], "per_class": [], "folds": report.folds[2:], "device": {}})
    assert re.findall(r'<section id="(\w+)"', render_crossval_html(nothing)) == ["failed", "folds", "notes"]
