"""CSV files for spreadsheets: no cell is a formula, and reading restores what was written."""

from __future__ import annotations

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.errors import UserError
from skd_edge.data.csv_files import escape_formula, read_sheet, unescape_formula, write_sheet

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
NASTY = st.builds(lambda a, b, c: a + b + c, st.sampled_from(["", "'", "''"]), st.sampled_from("=+-@\t\r\n＝"), TEXTS)


@given(TEXTS | NASTY)
def test_no_cell_is_a_formula_and_nothing_is_lost(text):
    assert not escape_formula(text).startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"))
    assert unescape_formula(escape_formula(text)) == text


@given(rows=st.lists(st.lists(TEXTS | NASTY, min_size=2, max_size=2), max_size=5))
def test_what_is_written_is_read(rows, tmp_path_factory):
    path = write_sheet(tmp_path_factory.mktemp("s") / "a.csv", ["clip", "=x"], rows)
    expected = [row for row in rows if any(escape_formula(c).strip() for c in row)]  # an empty line is not a row
    assert [[r["clip"], r["=x"]] for _, r in read_sheet(path, ["=x"])] == expected


def test_file_names_of_any_bytes_are_restored(tmp_path):
    name = b"caf\xe9.mp4".decode("utf-8", "surrogateescape")
    [(_, row)] = read_sheet(write_sheet(tmp_path / "a.csv", ["clip"], [[name]]))
    assert row["clip"] == name


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_files_saved_by_a_spreadsheet_are_read(tmp_path, delimiter):
    path = tmp_path / "a.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([["clip", "trusted"], ["a b.mp4", "wave"], ["", ""]])
    assert list(read_sheet(path, ["clip", "trusted"])) == [(2, {"clip": "a b.mp4", "trusted": "wave"})]


@pytest.mark.parametrize(
    ("text", "words"),
    [("a,b\n1,2\n", "no column 'clip'"), ("clip,trusted\nx\n", r":2: 1 cells"), ("", "its columns are: none")],
)
def test_errors_name_the_file_and_the_problem(tmp_path, text, words):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        list(read_sheet(tmp_path / "a.csv", ["clip"]))
    with pytest.raises(UserError, match="cannot read"):
        list(read_sheet(tmp_path))
