"""Lists of lines ``path label``, as mmaction2 and many other tools write them, one file for each split."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skd_bench.errors import UserError
from skd_bench.listing.folder_walk import is_video_name
from skd_bench.listing.paths import resolve_listed_path
from skd_bench.video.frame_folder import list_frames
from skd_edge.data.sources.class_labels import ListedLabel, read_class_file, resolve_labels
from skd_edge.data.sources.group_pattern import make_group_finder
from skd_edge.data.sources.listing import (
    SPLITS,
    ClipEntry,
    ClipListing,
    EntryCollector,
    Split,
    make_listing,
    read_lines,
)
from skd_edge.recipe.data import ListData

_SEVERAL_INDICES = re.compile(r"\d+(,\d+)+")


@dataclass(frozen=True)
class ListRow:
    """One line of a list.

    Attributes:
        path: the path as listed.
        label: the label as listed.
        picture_count: number of pictures, in rows ``folder number label``; None in rows ``path label``.
        line: the whole line.
    """

    path: str
    label: str
    picture_count: int | None = None
    line: str = field(default="", compare=False)


def parse_list_row(line: str, at: str) -> ListRow:
    """Split a line into path and label.

    The last space separates them, so only the path may contain spaces; with a tab as separator both may. In a row
    ``folder number label``, the folder holds the frames as pictures.

    Args:
        line: the line, without white space at its ends.
        at: its place (``file:line``), for error messages.

    Raises:
        UserError: The line has no label, or several.
    """
    separator = _find_separator(line)
    path, _, label = line.rpartition(separator)
    path = path.rstrip()
    if not path:
        raise UserError(f"{at}: the line must have the form 'path label'; it is {line!r}")
    if is_video_name(path):
        return ListRow(path, label, line=line)
    fields = line.split(separator)
    ends = [number for number in range(1, len(fields) - 1) if is_video_name(separator.join(fields[:number]))]
    if ends:
        raise _make_labels_error(fields[ends[-1] :], at)
    folder, _, number = path.rpartition(separator)
    if folder.strip() and number.isdecimal() and len(number) < 10:
        return ListRow(folder.rstrip(), label, int(number), line)
    return ListRow(path, label, line=line)


def _find_separator(line: str) -> str:
    return "\t" if "\t" in line else " "


def _make_labels_error(labels: Sequence[str], at: str, alternative: str = "") -> UserError:
    return UserError(
        f"{at}: this row gives the clip {len(labels)} labels ({', '.join(labels[:4])}){alternative}; a clip has one "
        "class here: leave one label in each row (sets with several labels a clip cannot be trained on)"
    )


def read_path_label_lists(data: ListData) -> ClipListing:
    """List the clips of files with lines ``path label`` or ``folder number label``, see `parse_list_row`.

    Raises:
        UserError: A file does not exist, a line does not have this form, or a class is unknown or can be read in two
            ways.
    """
    classes, group = read_class_file(data.root, data.classes), make_group_finder(data.group)
    rows: list[tuple[Split, ListRow, str]] = []
    for split in SPLITS:
        file = data.root / getattr(data, split)
        for number, line in read_lines(file):
            at = f"{file}:{number}"
            row = _interpret_numbers(data.root, parse_list_row(line, at), at)
            if row.label not in classes and _SEVERAL_INDICES.fullmatch(row.label):
                raise _make_labels_error(row.label.split(","), at)
            rows.append((split, row, at))
    labels = [ListedLabel(row.label, at) for _, row, at in rows]
    names = resolve_labels(labels, classes, data.labels_are, data.classes)
    collector, miscounted = EntryCollector(), list[str]()
    for (split, row, at), label in zip(rows, names, strict=True):
        path, name = resolve_listed_path(data.root, row.path)
        if row.picture_count is not None and _has_other_count(path, row.picture_count):
            miscounted.append(name)
        collector.add(ClipEntry(path, name, label, split, group(name)), at)
    note = (
        f"{len(miscounted)} folders hold another number of pictures than their row says, and all pictures are used "
        f"(first: {miscounted[0]})"
        if miscounted
        else ""
    )
    return make_listing(collector.entries, "split files", collector.duplicate_note, note, classes=classes or None)


def _interpret_numbers(root: Path, row: ListRow, at: str) -> ListRow:
    """Decide by what is on disk which of the numbers at the end of a row belong to the path.

    A row ``folder 0 number label`` (mmaction2's rows with an offset) is read as ``folder number label``.

    Raises:
        UserError: The row names a folder and gives it several labels, or an offset.
    """
    if row.picture_count is None:
        return row
    separator = _find_separator(row.line)
    fields = row.line.split(separator)
    whole = separator.join(fields[:-1]).rstrip()
    if os.path.exists(resolve_listed_path(root, whole)[0]):
        return ListRow(whole, row.label, line=row.line)
    if os.path.exists(resolve_listed_path(root, row.path)[0]):
        return row
    number_count = next((n for n, text in enumerate(reversed(fields)) if not text.isdecimal()), len(fields) - 1)
    for count in range(3, number_count + 1):
        folder, numbers = separator.join(fields[:-count]).rstrip(), fields[-count:]
        if folder and os.path.isdir(resolve_listed_path(root, folder)[0]):
            if count == 3 and not numbers[0].strip("0"):
                return ListRow(folder, row.label, row.picture_count, row.line)
            offset = f", or an offset ({numbers[0]}), which cannot be used" if count == 3 else ""
            raise _make_labels_error(numbers[1:], at, offset)
    return row


def _has_other_count(folder: Path, count: int) -> bool:
    try:
        return len(list_frames(folder)) != count
    except (OSError, ValueError):  # such a clip is listed as unreadable later, with the reason
        return False
