"""CSV files that people open in a spreadsheet: no cell is run as a formula, and reading restores the text.

A cell that a spreadsheet could run (``=HYPERLINK(...)``, ``+1``, ``-x``, ``@sum``) gets a leading apostrophe, as OWASP
recommends ("CSV injection"). Reading removes the apostrophe.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from skd_bench.errors import UserError
from skd_bench.files import open_regular_text, write_atomic

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_DELIMITERS = (",", ";", "\t", "|")


def escape_formula(cell: str) -> str:
    """Prefix a text that a spreadsheet could run with an apostrophe; ``unescape_formula`` removes it."""
    return f"'{cell}" if _may_run(cell) else cell


def unescape_formula(cell: str) -> str:
    """Remove the apostrophe that ``escape_formula`` added; other text is returned unchanged."""
    return cell[1:] if cell.startswith("'") and _may_run(cell) else cell


def _may_run(cell: str) -> bool:
    """Whether a spreadsheet could run a text; apostrophes in front do not change the result."""
    return cell.lstrip("'").startswith(_FORMULA_STARTS) or cell.lstrip("' \t\r\n").startswith(_FORMULA_STARTS)


def write_sheet(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Path:
    """Write a CSV with a header, whose cells are safe in a spreadsheet. The file is complete or not written at all.

    Args:
        path: the file.
        columns: the header.
        rows: cells as text, one for each column.

    Returns:
        The path.

    Raises:
        UserError: See ``write_atomic``.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")  # RFC 4180; cells with line breaks are quoted
    writer.writerow([escape_formula(c) for c in columns])
    writer.writerows([escape_formula(c) for c in row] for row in rows)
    return write_atomic(path, text.getvalue().encode("utf-8", "surrogateescape"))  # file names may contain any bytes


def read_sheet(path: Path, required_columns: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a CSV row by row.

    Accepts what spreadsheets change when they save a CSV: a byte-order mark, ``;`` or tabs as delimiter, empty lines.

    Args:
        path: the file, UTF-8.
        required_columns: columns that must exist.

    Yields:
        Line number and the cells of the row by column name, as text.

    Raises:
        UserError: The file cannot be read, a required column is missing, or a row has the wrong number of cells.
    """
    try:
        with open_regular_text(path, "utf-8-sig", errors="surrogateescape", newline="") as file:
            first = file.readline()
            file.seek(0)
            rows = csv.reader(file, delimiter=max(_DELIMITERS, key=first.count))
            header = [unescape_formula(c.strip()) for c in next(rows, [])]
            if missing := [c for c in required_columns if c not in header]:
                raise UserError(f"{path} has no column {missing[0]!r}; its columns are: {', '.join(header) or 'none'}")
            for row in rows:
                if any(cell.strip() for cell in row):
                    if len(row) != len(header):
                        raise UserError(
                            f"{path}:{rows.line_num}: {len(row)} cells, but the header has {len(header)}; put quotes "
                            "around cells that contain the delimiter"
                        )
                    yield rows.line_num, dict(zip(header, map(unescape_formula, row), strict=True))
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read {path}: {reason}") from None
