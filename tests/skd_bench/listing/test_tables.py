"""Tables are read row by row, whichever program wrote them."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.errors import UserError
from skd_bench.listing.tables import read_header, read_rows

CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n\ufeff"), max_size=12)


@given(st.lists(st.tuples(CELLS, CELLS), max_size=5), st.sampled_from(",;\t|"), st.sampled_from(["utf-8", "utf-16"]))
def test_every_cell_comes_back(tmp_path_factory, rows, delimiter, encoding):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([("path", "other", "label"), *((a, "x", b) for a, b in rows)])
    file = tmp_path_factory.mktemp("table") / "t.csv"
    file.write_bytes(text.getvalue().encode(encoding))
    assert read_header(file) == ["path", "other", "label"]
    assert [tuple(cells) for _, cells in read_rows(file, ["label", "path"])] == [(b, a) for a, b in rows]


def test_a_table_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_header(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_bytes(b"path,label\n\xff,a\n")
    with pytest.raises(UserError, match="cannot read"):
        list(read_rows(tmp_path / "t.csv", ["path"]))
    (tmp_path / "t.parquet").write_bytes(b"no parquet")
    pytest.importorskip("pyarrow")
    with pytest.raises(UserError, match="cannot read"):
        read_header(tmp_path / "t.parquet")
