"""The Markdown report: its order, its tables, and escaping."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from skd_edge.report.markdown import render_markdown


def tokens(text: str) -> list[Any]:
    return MarkdownIt("commonmark").enable("table").parse(text)


def test_starts_with_the_headline_and_stays_short(sample: ModuleType) -> None:
    raw = sample.full_result()
    text = render_markdown(raw)
    assert text.splitlines()[0] == f"# {raw['headline']}"
    assert raw["chosen"]["why"] in text
    assert len(text.splitlines()) < 60
    assert text.endswith("</sub>\n")


def test_tables_have_a_row_for_each_entry(sample: ModuleType) -> None:
    raw = sample.full_result()
    found = tokens(render_markdown(raw))
    rows = sum(t.type == "tr_open" for t in found)
    assert rows == 1 + len(raw["candidates"]) + len(raw["baselines"]) + 1 + len(raw["test"]["rows"])


def test_balanced_accuracy_has_columns_where_classes_are_unequal(sample: ModuleType) -> None:
    equal, unequal = (render_markdown(raw) for raw in (sample.full_result(), sample.unequal_result()))
    assert "balanced" not in equal
    assert "| candidate | accuracy, validation | balanced accuracy | p50 ms |" in unequal
    assert "| test set | accuracy | 95 % interval | balanced accuracy | 95 % interval |" in unequal
    for table in ("| candidate |", "| test set |"):
        lines = unequal[unequal.index(table) :].split("\n\n")[0].splitlines()
        assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "| teacher | 87.5 % |" in unequal
    assert "67.5 %" in unequal


def test_html_in_names_stays_text(sample: ModuleType) -> None:
    inline = [t for t in tokens(render_markdown(sample.hostile_result())) if t.type == "inline"]
    kinds = {child.type for t in inline for child in t.children if child.content not in {"<sub>", "</sub>"}}
    assert kinds <= {"text", "text_special", "strong_open", "strong_close", "em_open", "em_close"}
    assert any("<script>" in "".join(c.content for c in t.children) for t in inline)


def test_missing_parts_are_left_out(sample: ModuleType) -> None:
    assert render_markdown(sample.minimal_result()).startswith("# Nothing to ship")
    assert "was not evaluated" in render_markdown(sample.unlucky_result())


@given(st.text(max_size=40))
def test_no_candidate_name_breaks_the_table(name: str) -> None:
    raw = {"schema": 1, "name": "n", "candidates": [{"name": name}, {"name": "other"}]}
    assert sum(t.type == "tr_open" for t in tokens(render_markdown(raw))) == 3


def test_copies_across_splits_are_stated(sample: ModuleType) -> None:
    report = sample.full_result()
    assert "1 val and 1 test clips are copies of clips in another split" in render_markdown(report)
    report["data"]["copies"] = []
    assert "copies of clips" not in render_markdown(report)
