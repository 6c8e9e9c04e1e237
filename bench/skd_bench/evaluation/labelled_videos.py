"""Lists of labelled videos for an evaluation, from a folder with one folder for each class or from a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skd_bench.errors import UserError

_VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp"}


@dataclass(frozen=True)
class LabelledVideo:
    """One video and its label.

    Attributes:
        path: The video file.
        label: Index of its class.
        group: Name of the source that it shares with other clips; its own path if it shares none.
    """

    path: Path
    label: int
    group: str


def load_labelled_videos(source: Path | str, classes: Sequence[str]) -> list[LabelledVideo]:
    """List the videos of a folder or a CSV file, in a stable order.

    Args:
        source: A folder with one folder for each class, or a CSV file with the columns `path` (relative to the CSV
            file), `label` and, where several clips come from one source video, `group`.
        classes: The bundle's classes.

    Raises:
        UserError: The source cannot be read, a label is not a class of the bundle, or there are no videos.
    """
    source = Path(source)
    rows = _list_folder_videos(source) if source.is_dir() else _read_video_table(source)
    if not rows:
        hint = "give a folder with CLASS/video.mp4, or a CSV file with the columns path and label"
        raise UserError(f"{source} contains no labelled videos; {hint}")
    if unknown := sorted({label for _, label, _ in rows} - set(classes)):
        raise UserError(f"unknown label {unknown[0]!r} in {source}; the bundle's classes are: {', '.join(classes)}")
    index = {name: i for i, name in enumerate(classes)}
    return [LabelledVideo(path, index[label], group) for path, label, group in rows]


def _list_folder_videos(folder: Path) -> list[tuple[Path, str, str]]:
    return [
        (path, class_folder.name, str(path))
        for class_folder in sorted(p for p in folder.iterdir() if p.is_dir())
        for path in sorted(class_folder.rglob("*"))
        if path.suffix.lower() in _VIDEO_SUFFIXES
    ]


def _read_video_table(table: Path) -> list[tuple[Path, str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"cannot read {table}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} is not a CSV file in UTF-8: {error}") from error
    videos = []
    for number, row in enumerate(rows, 2):
        path, label = row.get("path"), row.get("label")
        columns = ", ".join(map(str, row))
        if not path or not label:
            raise UserError(f"{table}, row {number}: path or label is missing; the columns are: {columns}")
        videos.append((table.parent / path, label, row.get("group") or path))
    return videos
