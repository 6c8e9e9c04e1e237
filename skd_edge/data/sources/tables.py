"""Tables of clips (CSV or Parquet) as clips; with votes in columns or in rows, and with spans of time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from sys import intern

from skd_bench.errors import UserError
from skd_bench.listing.class_names import normalise_class_name
from skd_bench.listing.paths import resolve_listed_path
from skd_bench.listing.tables import read_rows
from skd_bench.video.types import WHOLE_FILE, ClipSpan
from skd_edge.data.sources.listing import SPLITS, ClipEntry, ClipListing, EntryCollector, Split, make_listing
from skd_edge.recipe.data import TableData


def parse_seconds(cell: str, at: str) -> float | None:
    """Parse a time as seconds: ``75.5``, ``1:15.5`` or ``1:02:03.5``; None for an empty cell.

    Args:
        cell: the text.
        at: where it is listed (``file:line``), for error messages.

    Raises:
        UserError: The text is not a time of at least 0 s.
    """
    if not (cell := cell.strip()):
        return None
    try:
        fields = [float(each) for each in cell.split(":")]
        if len(fields) <= 3 and all(math.isfinite(f) and f >= 0 for f in fields):
            return float(sum(f * 60**i for i, f in enumerate(reversed(fields))))
    except ValueError:
        pass
    raise UserError(f"{at}: {cell!r} is not a time; write seconds (75.5) or minutes and seconds (1:15.5)")


def format_time_fragment(span: ClipSpan) -> str:
    """The suffix of a clip's name for a span of time, such as ``#t=1,2.5`` (W3C media fragments); empty without one."""
    end = "" if span.end is None else f",{span.end:.10g}"
    return f"#t={span.start:.10g}{end}" if span.is_timed else ""


# ------------------------------------------------------------------------------------------ a recipe's table
def read_clip_table(data: TableData, note: str = "") -> ClipListing:
    """List the clips of a table; the recipe's rules assign rows to splits.

    Args:
        data: the recipe's section.
        note: remark on the splits for the report; default: the rules.

    Raises:
        UserError: See ``read_rows``; or a row is in two splits, lacks a path or label, or contradicts another row.
    """
    rules = {"train": data.train, "val": data.val, "test": data.test}
    splits_note = note or "; ".join(f"{s}: {', '.join(f'{c} in {v}' for c, v in rules[s].items())}" for s in SPLITS)
    reader = _RowReader(data)
    collector, vote_collector = EntryCollector(), _VoteCollector()
    hint = "" if data.annotator else " (if each row is one vote, name the column of the annotators: data.annotator)"
    for at, entry, voter in reader.iter_entries():
        if data.annotator and entry.split == "train":
            vote_collector.add(entry, voter, at)
        else:
            collector.add(entry, at, hint)
    names = data.votes
    if data.annotator:
        names = tuple(sorted(vote_collector.names))
        for entry, at in vote_collector.iter_entries(names):
            collector.add(entry, at)
    return make_listing(collector.entries, splits_note, collector.duplicate_note, annotators=names)


def read_training_texts(data: TableData, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield for each training row of a table the name of its clip, as in the listing, and its cells of some columns.

    Raises:
        UserError: See `read_clip_table`; or the table has no such column.
    """
    reader = _RowReader(data, columns)
    for at, row, split in reader.iter_rows():
        if split == "train":
            _, name, span = reader.locate_clip(row, at)
            yield name + format_time_fragment(span), {column: reader.get_cell(row, column) for column in columns}


class _RowReader:
    """Converts the rows of a table to entries.

    Args:
        data: the recipe's section.
        more_columns: columns to read besides those that the section names.
    """

    def __init__(self, data: TableData, more_columns: Sequence[str] = ()) -> None:
        rules = {"train": data.train, "val": data.val, "test": data.test}
        self.data, self.rules = data, {s: {c: frozenset(v) for c, v in rule.items()} for s, rule in rules.items()}
        named_columns = (
            data.path,
            data.label,
            data.group,
            data.annotator,
            data.start,
            data.end,
            *data.votes,
            *more_columns,
        )
        rule_columns = [column for rule in rules.values() for column in rule]
        self.columns = list(dict.fromkeys(c for c in (*named_columns, *rule_columns) if c))
        self.column_index = {name: i for i, name in enumerate(self.columns)}

    def iter_entries(self) -> Iterator[tuple[str, ClipEntry, str]]:
        """Yield for each row of a split: its place ``file:line``, its clip, and its annotator ('' if there is none)."""
        for at, row, split in self.iter_rows():
            yield at, self._make_entry(row, split, at), self.get_cell(row, self.data.annotator).strip()

    def iter_rows(self) -> Iterator[tuple[str, list[str], Split]]:
        """Yield for each row of a split: its place ``file:line``, its cells in the order of `columns`, its split."""
        file, data = self.data.root / self.data.file, self.data
        rules = [(s, [(self.column_index[c], v) for c, v in self.rules[s].items()]) for s in SPLITS]
        for number, row in read_rows(file, self.columns):
            splits = [s for s, rule in rules if all(row[i] in values for i, values in rule)]
            if not splits:
                continue
            at = f"{file}:{number}"
            if len(splits) > 1:
                raise UserError(
                    f"{at}: {row[self.column_index[data.path]]} is in {' and '.join(splits)}; splits must not overlap"
                )
            yield at, row, splits[0]

    def get_cell(self, row: list[str], column: str | None) -> str:
        """The cell of a column; empty without a column."""
        return row[self.column_index[column]] if column else ""

    def _make_entry(self, row: list[str], split: Split, at: str) -> ClipEntry:
        """Convert one row; only a training clip may be unlabelled."""
        data, train = self.data, split == "train"
        label = intern(normalise_class_name(self.get_cell(row, data.label)))
        file, name, span = self.locate_clip(row, at)
        if not label and not train:
            raise UserError(
                f"{at}: the {data.label!r} of this row is empty, and it is in {split}; only training clips may be "
                "unlabelled: fill in the label, or leave the row out of every split"
            )
        votes = tuple(intern(normalise_class_name(self.get_cell(row, c))) for c in data.votes) if train else ()
        group = intern(self.get_cell(row, data.group)) if data.group else name
        return ClipEntry(file, name + format_time_fragment(span), "" if votes else label, split, group, votes, span)

    def locate_clip(self, row: list[str], at: str) -> tuple[Path, str, ClipSpan]:
        """The row's video, the video's name relative to the root, and the clip's span of it."""
        if not (path := self.get_cell(row, self.data.path)):
            raise UserError(f"{at}: the {self.data.path!r} of this row is empty; give the path of the video")
        span = self._parse_span(row, at) if self.data.start or self.data.end else WHOLE_FILE
        file, name = resolve_listed_path(self.data.root, path)
        return file, name, span

    def _parse_span(self, row: list[str], at: str) -> ClipSpan:
        start = parse_seconds(self.get_cell(row, self.data.start), at) or 0.0
        end = parse_seconds(self.get_cell(row, self.data.end), at)
        if end is not None and end <= start:
            raise UserError(f"{at}: the clip ends at {end:g} s but begins at {start:g} s; give an end after the start")
        if not start and end is None:
            return WHOLE_FILE
        return ClipSpan(start, end, frame_rate=self.data.frame_rate)


@dataclass
class _VoteCollector:
    """Collects votes that are given one in each row, by clip.

    Attributes:
        clips: by clip name: its entry, the place of its first row, and the labels by annotator.
        names: every annotator.
    """

    clips: dict[str, tuple[ClipEntry, str, dict[str, str]]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def add(self, entry: ClipEntry, voter: str, at: str) -> None:
        if not voter:
            raise UserError(f"{at}: this label has no annotator; fill in the column of data.annotator")
        self.names.add(voter)
        _, first, given = self.clips.setdefault(entry.name, (entry, at, {}))
        if given.setdefault(voter, entry.label) != entry.label:
            raise UserError(
                f"{at}: {voter} labels {entry.name} as {entry.label!r} here and as {given[voter]!r} in another row "
                f"(first row of the clip: {first}); keep one vote of each annotator"
            )

    def iter_entries(self, names: Sequence[str]) -> Iterator[tuple[ClipEntry, str]]:
        for entry, at, given in self.clips.values():
            yield replace(entry, label="", votes=tuple(given.get(name, "") for name in names)), at
