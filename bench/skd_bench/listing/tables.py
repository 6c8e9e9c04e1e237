"""Tables of clips (CSV or Parquet), read row by row."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from skd_bench.errors import UserError
from skd_bench.files import open_regular_file, open_regular_text

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
_DELIMITERS = ",;\t|"


def read_header(file: Path) -> list[str]:
    """The names of a table's columns; see `read_rows`.

    Raises:
        UserError: The file does not exist, or cannot be read.
    """
    _check_exists(file)
    try:
        if file.suffix.lower() == ".parquet":
            return _read_parquet_header(file)
        with _open_csv(file) as text:
            heads = _split_head(text)
            return max(heads.values(), key=len)
    except UnicodeError as error:
        raise UserError(f"cannot read {file}: it is not UTF-8 ({error}); save it as CSV in UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error}") from None


def read_rows(file: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Read some columns of a table row by row, without loading the whole file.

    Args:
        file: CSV with a header (UTF-8 or UTF-16; separated by comma, semicolon, tab or vertical bar), or ``.parquet``.
        columns: names of the columns to read.

    Yields:
        Line number of the row (row number for Parquet) and its cells as text, in the order of ``columns``. A null cell
        of Parquet is "".

    Raises:
        UserError: The file does not exist, cannot be read, or lacks a column, or a row has too few cells.
    """
    _check_exists(file)
    try:
        yield from (_read_parquet_rows if file.suffix.lower() == ".parquet" else _read_csv_rows)(file, columns)
    except UnicodeError as error:
        raise UserError(f"cannot read {file}: it is not UTF-8 ({error}); save it as CSV in UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error}") from None


def _read_csv_rows(file: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    with _open_csv(file) as text:
        heads = _split_head(text)
        # The delimiter is the one that yields most of the requested columns.
        delimiter, head = max(heads.items(), key=lambda x: (len({*columns} & {*x[1]}), len(x[1])))
        where = [head.index(name) for name in columns if name in head]
        if missing := sorted(set(columns) - set(head)):
            raise UserError(f"{file} has no column {missing[0]!r}; its columns are: {', '.join(head)}")
        rows, most = csv.reader(text, delimiter=delimiter), max(where)
        try:
            for row in rows:
                if len(row) > most:
                    yield rows.line_num + 1, [row[i] for i in where]
                elif row:
                    short = next(name for name, i in zip(columns, where, strict=True) if i >= len(row))
                    raise UserError(
                        f"{file}:{rows.line_num + 1}: this row ends before its {short!r}; every row needs as many "
                        "cells as the header"
                    )
        except csv.Error as error:
            raise UserError(f"{file}:{rows.line_num + 1}: {error}") from None


def _open_csv(file: Path) -> IO[str]:
    with open_regular_file(file) as raw:
        encoding = "utf-16" if raw.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return open_regular_text(file, encoding, newline="")


def _split_head(text: IO[str]) -> dict[str, list[str]]:
    """The first line, split by each delimiter."""
    first = text.readline(1 << 20).rstrip("\r\n")
    return {d: [name.strip('"') for name in first.split(d)] for d in _DELIMITERS}


def _check_exists(file: Path) -> None:
    if not file.exists():
        raise UserError(f"{file} does not exist; check its name, and the folder that it is in (data.root in a recipe)")


def _read_parquet_header(file: Path) -> list[str]:
    with _open_parquet(file) as table:
        return list(table.schema_arrow.names)


def _read_parquet_rows(file: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    with _open_parquet(file) as table:
        names, number = table.schema_arrow.names, 0
        if missing := sorted(set(columns) - set(names)):
            raise UserError(f"{file} has no column {missing[0]!r}; its columns are: {', '.join(names)}")
        for batch in table.iter_batches(columns=list(dict.fromkeys(columns))):
            cells = [[_format_cell(cell) for cell in batch.column(name).to_pylist()] for name in columns]
            for row in zip(*cells, strict=True):
                number += 1
                yield number, list(row)


@contextmanager
def _open_parquet(file: Path) -> Iterator[Any]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(f"{file} is Parquet, which needs pyarrow; pip install 'skd-edge[data]', or use CSV") from None
    try:
        with open_regular_file(file) as opened, ParquetFile(opened) as table:
            yield table
    except ArrowException as error:
        raise UserError(f"cannot read {file}: {' '.join(str(error).split())[:200]}") from None


def _format_cell(cell: Any) -> str:
    return "" if cell is None or cell != cell else str(cell)
