"""The page of a label audit: suspects, noise matrix, frequent mistakes, and self-containedness."""

from __future__ import annotations

from typing import Any

import pytest

from skd_edge.report.audit_html import render_audit_html

CLASSES = ["left", "right", "up"]


def make_audit(**changes: Any) -> dict[str, Any]:
    """An audit of 100 clips: many clips of "left" are labelled "right"."""
    matrix = [[0.6, 0.4, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    noise = {
        "rate": {"value": 0.15, "low": 0.1, "high": 0.2},
        "classes": CLASSES,
        "matrix": matrix,
        "low": [[max(p - 0.1, 0.0) for p in row] for row in matrix],
        "high": [[min(p + 0.1, 1.0) for p in row] for row in matrix],
        "within_parent": None,
    }
    suspect = {"rank": 1, "label": "right", "proposed": "left", "wrong": 0.93, "confidence": 0.88, "trusted": ""}
    suspects = [suspect | {"clip": "a.mp4"}, suspect | {"clip": "b.mp4", "rank": 2}]
    counts = {"labelled": 33, "wrong": 4.4, "after": 30, "trusted": 0, "val": 5, "test": 5}
    audit = {
        "name": "run",
        "seed": 0,
        "clips": 100,
        "unlabelled": 1,
        "trusted": 2,
        "doubtful": 12,
        "ranked": 97,
        "known_rate": None,
        "noise": noise,
        "suspects": suspects,
        "classes": [{"class": c, **counts} for c in CLASSES],
        "annotators": [],
    }
    return audit | changes


def test_the_page_lists_suspects_with_their_sheets_and_fetches_nothing(page_of: Any) -> None:
    page = page_of(render_audit_html(make_audit(), {"a.mp4": "data:image/jpeg;base64,AAAA"}))
    assert page.tags.count("img") == 1
    assert page.tags.count("li") == 2
    assert "label wrong with 93" in page.text
    assert "b.mp4" in page.text
    assert all(r.startswith(("#", "data:")) for r in page.resources)
    assert page.handlers == []


def test_frequent_mistakes_are_named(page_of: Any) -> None:
    assert "40 % of left are labelled right" in page_of(render_audit_html(make_audit(), {})).text


def test_mistakes_that_uniform_noise_would_explain_are_not_named(page_of: Any) -> None:
    audit = make_audit()
    audit["noise"]["low"] = [[0.0] * 3 for _ in CLASSES]  # the interval includes the rate of uniform noise
    assert "are labelled right" not in page_of(render_audit_html(audit, {})).text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"teacher": 0.87}, "classifies 87"),
        ({"known_rate": 0.25}, "added by the recipe: 25.0"),
        ({"annotators": [{"name": "rule A", "votes": 7, "accuracy": 0.9}]}, "rule A"),
    ],
)
def test_optional_parts_are_shown_if_they_are_present(changes: dict[str, Any], text: str, page_of: Any) -> None:
    plain, full = (page_of(render_audit_html(make_audit(**c), {})).text for c in ({}, changes))
    assert text not in plain
    assert text in full


def test_the_colour_of_a_cell_is_relative_to_the_largest_error() -> None:
    html = render_audit_html(make_audit(), {})
    assert html.count("color-mix") == 1
    assert "var(--s2) 50%" in html
