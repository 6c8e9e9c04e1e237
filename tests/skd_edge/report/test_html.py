"""The HTML report: self-contained, safe with any names, and complete if parts of the report are missing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_bench.errors import UserError
from skd_edge.report.html import render_html, render_run


@pytest.fixture(scope="module")
def full(sample: ModuleType) -> str:
    return render_html(sample.full_result())


def test_the_page_starts_with_what_to_ship_and_why(full: str, sample: ModuleType, page_of: Any) -> None:
    raw = sample.full_result()
    page = page_of(full)
    head = page.text.index(raw["headline"])
    assert head < page.text.index(raw["chosen"]["why"]) < page.text.index("Accuracy, validation")
    assert page.tags.count("h1") == 1


def test_the_page_is_one_file_that_fetches_nothing(full: str, page_of: Any) -> None:
    page = page_of(full)
    assert page.resources
    assert all(r.startswith(("#", "data:")) for r in page.resources), page.resources
    style = re.findall(r"<style>(.*?)</style>", full, re.DOTALL)
    assert len(style) == 1
    assert "url(" not in style[0]
    assert "@import" not in style[0]
    assert full.count("plotly.js v") == 1


def test_all_sections_are_present_in_order(full: str, page_of: Any) -> None:
    page = page_of(full)
    wanted = ["candidates", "cascade", "test", "labels", "classes", "calibration", "latency"]
    wanted += ["sweep", "parity", "operators", "data", "device", "licences", "notes", "recipe"]
    assert [i for i in page.ids if i in wanted] == wanted
    assert len(page.json) == 7
    assert {r[1:] for r in page.resources if r.startswith("#")} <= set(page.ids)
    for text in ("4.5× faster", "2.6 points lost", "evaluated once", "zero bytes", "QLinearConv", "CC0", "98.7"):
        assert text in page.text


def test_balanced_accuracy_is_on_the_page_where_classes_are_unequal(
    sample: ModuleType, page_of: Any, full: str
) -> None:
    page = page_of(render_html(sample.unequal_result()))
    assert "Balanced accuracy against latency" in page.text
    assert "better by balanced accuracy" in page.text
    assert "67.5" in page.text
    assert "validation balanced accuracy, %" in json.dumps(page.json)
    assert "alanced accuracy" not in page_of(full).text


def test_equal_reports_give_equal_pages(full: str, sample: ModuleType) -> None:
    assert render_html(sample.full_result()) == full


def test_html_in_names_stays_text(sample: ModuleType, page_of: Any) -> None:
    html = render_html(sample.hostile_result())
    page = page_of(html)
    benign = page_of(render_html(sample.full_result()))
    assert page.tags.count("script") <= benign.tags.count("script")
    assert "img" not in page.tags
    assert page.handlers == []
    assert "<script>alert(1)</script>" in page.text
    assert all(r.startswith(("#", "data:")) for r in page.resources)
    assert "<" not in re.sub(r"</?b>|<br>|<extra></extra>", "", json.dumps(page.json))


def test_a_run_without_a_chosen_candidate_explains_why(sample: ModuleType, page_of: Any) -> None:
    page = page_of(render_html(sample.unlucky_result()))
    for text in (
        "Nothing to ship",
        "over the budget of 0.50 ms",
        "was not evaluated",
        "How many labels are correct is",
    ):
        assert text in page.text
    assert "Versus the teacher" not in page.text


def test_a_page_without_charts_has_no_plotly(sample: ModuleType, page_of: Any) -> None:
    html = render_html(sample.minimal_result())
    assert "Nothing to ship" in page_of(html).text
    assert len(html) < 30_000


def test_both_files_are_written_to_the_run_folder(sample: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(sample.full_result()))
    written = render_run(tmp_path)
    assert written == [tmp_path / "report.html", tmp_path / "report.md"]
    assert all(sample.full_result()["headline"].split(" at ")[1] in p.read_text("utf-8") for p in written)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]


def test_nothing_is_written_to_a_folder_without_a_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder of skd-edge"):
        render_run(tmp_path)
    assert list(tmp_path.iterdir()) == []


def without(value: Any, dropped: set[int], nulls: bool) -> Any:
    """The object with the fields of these numbers removed or null; names and schema stay."""
    count = 0

    def walk(item: Any) -> Any:
        nonlocal count
        if isinstance(item, list):
            return [walk(i) for i in item]
        if not isinstance(item, dict):
            return item
        copied: dict[str, Any] = {}
        for key, part in item.items():
            count += 1
            if key in {"schema", "name", "learner"} or count % 97 not in dropped:
                copied[key] = walk(part)
            elif nulls:
                copied[key] = None
        return copied

    return walk(value)


@settings(max_examples=25, deadline=None)
@given(dropped=st.sets(st.integers(0, 96), max_size=60), nulls=st.booleans())
def test_the_page_is_complete_without_any_fields(
    sample: ModuleType, dropped: set[int], nulls: bool, page_of: Any
) -> None:
    raw = without(small(sample), dropped, nulls)
    page = page_of(without_plotly(render_html(raw)))
    assert page.tags.count("h1") == 1
    assert "None" not in page.text
    assert "nan" not in page.text.split()


TOP = ["chosen", "budget", "candidates", "baselines", "jobs", "labels", "data", "test", "resolution", "device"]


@settings(max_examples=20, deadline=None)
@given(dropped=st.sets(st.sampled_from(TOP)))
def test_the_page_is_complete_without_whole_parts(sample: ModuleType, dropped: set[str], page_of: Any) -> None:
    raw = {key: value for key, value in small(sample).items() if key not in dropped}
    page = page_of(without_plotly(render_html(raw)))
    assert ("candidates" in page.ids) == ("candidates" not in dropped)
    assert ("labels" in page.ids) == ("labels" not in dropped)
    assert "None" not in page.text


def small(sample: ModuleType) -> dict[str, Any]:
    raw: dict[str, Any] = sample.full_result()
    return raw | {"latency_samples": {k: v[:40] for k, v in raw["latency_samples"].items()}}


def without_plotly(html: str) -> str:
    """The page without plotly.js, which takes the parser a second."""
    start = html.find("<script>/**")
    return html if start < 0 else html[:start] + html[html.index("</script>", start) + len("</script>") :]


def test_copies_across_splits_are_listed(full: str, sample: ModuleType) -> None:
    assert "Copies across splits: 2" in full
    assert "v/&lt;b&gt;" in full
    report = sample.full_result()
    report["data"]["copies"] = []
    assert "Copies across splits" not in render_html(report)
