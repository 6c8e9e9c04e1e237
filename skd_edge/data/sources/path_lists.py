"""Lists of lines ``path label``, as mmaction2 and many other tools write them, one file for each split."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class ListRow:
    """One line of a list.

    Attributes:
        path: the path as listed.
        label: the label as listed.
        picture_count: number of pictures, in rows ``folder number label``; None in rows ``path label``.
    """

    path: str
    label: str
    picture_count: int | None = None


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
    separator = "\t" if "\t" in line else " "
    path, _, label = line.rpartition(separator)
    path = path.rstrip()
    if not path:
        raise UserError(f"{at}: the line must have the form 'path label'; it is {line!r}")
    if is_video_name(path):
        return ListRow(path, label)
    fields = line.split(separator)
    ends = [number for number in range(1, len(fields) - 1) if is_video_name(separator.join(fields[:number]))]
    if ends:
        labels = fields[ends[-1] :]
        raise UserError(
            f"{at}: this row gives the clip {len(labels)} labels ({', '.join(labels[:4])}); a clip has one class here: "
            "leave one label in each row (sets with several labels a clip cannot be trained on)"
        )
    folder, _, number = path.rpartition(separator)
    if folder.strip() and number.isdecimal() and len(number) < 10:
        return ListRow(folder.rstrip(), label, int(number))
    return ListRow(path, label)


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
        rows += [
            (split, parse_list_row(line, f"{file}:{number}"), f"{file}:{number}") for number, line in read_lines(file)
        ]
    labels = [ListedLabel(row.label, at) for _, row, at in rows]
    names = resolve_labels(labels, classes, data.labels_are, data.classes)
    collector, miscounted = EntryCollector(), list[str]()
    for (split, row, at), label in zip(rows, names, strict=True):
        path, name = _find_clip(data.root, row)
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


def _find_clip(root: Path, row: ListRow) -> tuple[Path, str]:
    """The file or folder of a row. Where a folder has a number in its name, the number belongs to the path."""
    if row.picture_count is not None:
        whole = f"{row.path} {row.picture_count}"
        path, name = resolve_listed_path(root, whole)
        if path.is_dir() or path.is_file():
            return path, name
    return resolve_listed_path(root, row.path)


def _has_other_count(folder: Path, count: int) -> bool:
    try:
        return len(list_frames(folder)) != count
    except (OSError, ValueError):  # such a clip is listed as unreadable later, with the reason
        return False
