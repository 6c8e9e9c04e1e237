"""Tables that people open in a spreadsheet: written so that no cell is a formula, read back as they were.

A cell that a spreadsheet could run (``=HYPERLINK(...)``, ``+1``, ``-x``, ``@sum``) gets a leading apostrophe, as OWASP
advises ("CSV injection"); reading takes it off again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from skd_bench.errors import UserError
from skd_bench.files import write_atomic

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_DELIMITERS = (",", ";", "\t", "|")


def escape_formula(cell: str) -> str:
    """The text as a cell that no spreadsheet runs; ``plain`` gives the text back."""
    return f"'{cell}" if cell.lstrip("'").startswith(_FORMULA_STARTS) else cell


def unescape_formula(cell: str) -> str:
    """The text of a cell that ``safe`` wrote; other text as it is."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA_STARTS) else cell


def write_sheet(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Path:
    """A CSV with a header; every cell is safe in a spreadsheet. Written whole or not at all.

    Raises:
        UserError: See ``write_atomic``.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")  # RFC 4180; and a cell that holds either is quoted
    writer.writerow([escape_formula(c) for c in columns])
    writer.writerows([escape_formula(c) for c in row] for row in rows)
    return write_atomic(path, text.getvalue().encode("utf-8", "surrogateescape"))  # file names may be any bytes


def read_sheet(path: Path, required_columns: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV as text, one at a time: (line number, cell by column).

    What spreadsheets make of a CSV is taken: a byte-order mark, ``;`` or tabs between cells, empty lines.

    Args:
        path: the file, UTF-8.
        required_columns: columns that must be there.

    Raises:
        UserError: The file cannot be read, a needed column is missing, or a row has another number of cells.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
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
                            f"{path}:{rows.line_num}: {len(row)} cells, and the header has {len(header)}; put quotes "
                            "around a cell that holds the delimiter"
                        )
                    yield rows.line_num, dict(zip(header, map(unescape_formula, row), strict=True))
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read {path}: {reason}") from None
