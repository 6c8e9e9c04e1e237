"""Lists of labelled videos for an evaluation, from a folder with one folder for each class or from a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skd_bench.errors import UserError
from skd_bench.listing.class_names import normalise_class_name
from skd_bench.listing.folder_walk import LeftOut, find_clips
from skd_bench.listing.paths import resolve_listed_path
from skd_bench.listing.tables import read_header, read_rows


@dataclass(frozen=True)
class LabelledVideo:
    """One video and its label.

    Attributes:
        path: The video file, or the folder of pictures.
        label: Index of its class.
        group: Name of the source that it shares with other clips; its own path if it shares none.
    """

    path: Path
    label: int
    group: str


def load_labelled_videos(
    source: Path | str, classes: Sequence[str], left_out: LeftOut | None = None
) -> list[LabelledVideo]:
    """List the videos of a folder or a table, in a stable order.

    Args:
        source: A folder with one folder for each class, or a table (CSV or Parquet) with the columns `path` (relative
            to the table), `label` and, where several clips come from one source video, `group`.
        classes: The bundle's classes.
        left_out: Counts what a folder holds besides videos.

    Raises:
        UserError: The source cannot be read, a label is not a class of the bundle, or there are no videos.
    """
    source = Path(source)
    rows = _list_folder_videos(source, left_out or LeftOut()) if source.is_dir() else _read_video_table(source)
    if not rows:
        hint = "give a folder with CLASS/video.mp4, or a CSV file with the columns path and label"
        raise UserError(f"{source} contains no labelled videos; {hint}")
    index = {normalise_class_name(name): i for i, name in enumerate(classes)}
    if unknown := sorted({label for _, label, _ in rows} - set(index)):
        raise UserError(f"unknown label {unknown[0]!r} in {source}; the bundle's classes are: {', '.join(classes)}")
    return [LabelledVideo(path, index[label], group) for path, label, group in rows]


def _list_folder_videos(folder: Path, left_out: LeftOut) -> list[tuple[Path, str, str]]:
    return [
        (clip.path, normalise_class_name(clip.name.partition("/")[0]), clip.name)
        for clip in find_clips(folder, left_out, by_class=True)
    ]


def _read_video_table(table: Path) -> list[tuple[Path, str, str]]:
    columns = ["path", "label", *(["group"] if "group" in read_header(table) else [])]
    videos = []
    for number, (listed, label, *group) in read_rows(table, columns):
        if not listed or not label.strip():
            raise UserError(f"{table}:{number}: path or label is missing; fill them in, or remove the row")
        path, name = resolve_listed_path(table.parent, listed)
        videos.append((path, normalise_class_name(label), next(filter(None, group), name)))
    return videos
