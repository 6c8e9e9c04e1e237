"""Training clips whose labels a person checked (``data.trusted``): a folder with one folder per class, or a CSV.

A checked clip that is listed already, as the same file or as a copy with the same bytes, stays one clip: it keeps its
weak label, and gets the checked label beside it. Every other one becomes a training clip without a weak label. What
cannot be used is left out and described in the listing's ``trusted_notes``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.listing.class_names import normalise_class_name
from skd_bench.listing.folder_walk import LeftOut, PictureFolders, find_clips
from skd_bench.listing.paths import resolve_listed_path
from skd_bench.listing.tables import read_rows
from skd_bench.video.types import WHOLE_FILE
from skd_edge.data.sources.group_pattern import make_group_finder
from skd_edge.data.sources.listing import ClipEntry, ClipListing, make_listing
from skd_edge.recipe.base import RecipeSection
from skd_edge.recipe.data import FolderData, TableData


@dataclass(frozen=True)
class _CheckedVideo:
    """A row of the CSV or a file of the folder.

    Attributes:
        path: the video.
        label: its class.
        name: path relative to the folder or to the CSV.
        group: its group; equal to ``name`` if it has none.
    """

    path: Path
    label: str
    name: str
    group: str


def add_trusted_clips(listing: ClipListing, source: Path, data: RecipeSection) -> ClipListing:
    """Add checked clips to a listing.

    Args:
        listing: the clips of the data.
        source: the folder or the CSV.
        data: the section, for its groups.

    Returns:
        The listing, with checked labels, further training clips, and notes on what was left out.

    Raises:
        UserError: The source cannot be read or gives no usable clip, or a checked clip is a validation or test clip or
            in a group of one.
    """
    left_out = LeftOut()
    videos = list(
        _list_checked_folder(source, data, left_out) if source.is_dir() else _read_checked_table(source, data)
    )
    usable, notes = _leave_out_unusable(videos, listing.classes)
    notes += [text] if (text := left_out.to_text()) else []
    if not usable:
        raise UserError(
            f"data.trusted: {source} gives no checked clip that can be used"
            f"{': ' + '; '.join(notes) if notes else ''}; it needs videos in folders named like the classes "
            f"({', '.join(listing.classes[:40])}), or a CSV with columns path and label"
        )
    listed, further = _match_listed_clips(usable, listing)
    refuse_held_out_clips(listing, [e for e, _ in listed], {v.group for v in further}, "data.trusted")
    names = {e.name for e in listing.entries}
    if twice := [v.name for v in further if f"trusted/{v.name}" in names]:
        raise UserError(f"data.trusted: another clip is named trusted/{twice[0]} already; rename that folder")
    checked, abstentions = {e.name: label for e, label in listed}, ("",) * len(listing.annotators)
    entries = [replace(e, checked=checked.get(e.name, "")) if e.split == "train" else e for e in listing.entries]
    entries += [
        ClipEntry(v.path, f"trusted/{v.name}", "", "train", v.group, abstentions, checked=v.label) for v in further
    ]
    merged = make_listing(
        entries, listing.note, classes=listing.classes, annotators=listing.annotators, note_folder_mismatches=False
    )
    return replace(merged, trusted_notes=tuple(f"{source}: {note}" for note in notes))


def refuse_held_out_clips(listing: ClipListing, clips: Sequence[ClipEntry], groups: set[str], where: str) -> None:
    """Refuse checked clips that are validation or test clips, or in a group that has such clips.

    Args:
        listing: the clips of the data.
        clips: the listed clips that were checked.
        groups: groups of checked clips that are not listed.
        where: the setting that names the clips, for the message.

    Raises:
        UserError: There is one; it names the first, and how many there are.
    """
    split_of_group = {e.group: e.split for e in listing.entries if e.split != "train" and e.group != e.name}
    found = [f"{e.name} is a {e.split} clip" for e in clips if e.split != "train"]
    found += [
        f"{e.name} is in group {e.group!r}, which has {split_of_group[e.group]} clips"
        for e in clips
        if e.split == "train" and e.group in split_of_group
    ]
    found += [f"group {g!r} has {split_of_group[g]} clips" for g in sorted(groups) if g in split_of_group]
    if found:
        more = f" (and {len(found) - 1} more such clips)" if len(found) > 1 else ""
        raise UserError(
            f"{where}: {found[0]}{more}; clips that are trained on cannot be scored too: leave these out of the "
            "checked clips"
        )


def _list_checked_folder(root: Path, data: RecipeSection, left_out: LeftOut) -> Iterator[_CheckedVideo]:
    pictures: PictureFolders = data.pictures if isinstance(data, FolderData) else "auto"
    find_group = make_group_finder(None if isinstance(data, TableData) else getattr(data, "group", None))
    for clip in find_clips(root, left_out, by_class=True, pictures=pictures):
        yield _CheckedVideo(
            clip.path, normalise_class_name(clip.name.partition("/")[0]), clip.name, find_group(clip.name)
        )


def _read_checked_table(file: Path, data: RecipeSection) -> Iterator[_CheckedVideo]:
    if not file.is_file():
        raise UserError(f"data.trusted: {file} does not exist; it names a folder of checked clips, or a CSV")
    column = data.group if isinstance(data, TableData) else None
    find_group = make_group_finder(None if isinstance(data, TableData) else getattr(data, "group", None))
    for _, (path, label, *group) in read_rows(file, ["path", "label", *([column] if column else [])]):
        if label := normalise_class_name(label):
            video, name = resolve_listed_path(file.parent, path)
            yield _CheckedVideo(video, label, name, group[0] if group else find_group(name))


def _leave_out_unusable(
    videos: Sequence[_CheckedVideo], classes: Sequence[str]
) -> tuple[list[_CheckedVideo], list[str]]:
    """The videos that can be used, each once, and a note for each reason why others cannot."""
    missing = [v for v in videos if not v.path.exists()]
    unknown = [v for v in videos if v.label not in classes]
    labels: dict[Path, set[str]] = {}
    for video in videos:
        labels.setdefault(video.path.resolve(), set()).add(video.label)
    contradicting = [v for v in videos if len(labels[v.path.resolve()]) > 1]
    once = {v.path.resolve(): v for v in videos if v not in missing and v not in unknown and v not in contradicting}
    reasons = (
        (missing, "do not exist", "{0.name}"),
        (unknown, "are of an unknown class", "{0.label!r} of {0.name}"),
        (contradicting, "have two labels", "{0.name}"),
    )
    return list(once.values()), [
        f"{len(found)} checked clips {what} and were left out (first: {how.format(found[0])})"
        for found, what, how in reasons
        if found
    ]


def _match_listed_clips(
    videos: Sequence[_CheckedVideo], listing: ClipListing
) -> tuple[list[tuple[ClipEntry, str]], list[_CheckedVideo]]:
    """Listed clips that are a video's file or a copy of it, with their checked label; and the other videos."""
    # Validation and test clips first: a file that is listed among both is refused.
    whole = [e for e in reversed(listing.entries) if e.span == WHOLE_FILE and e.path.exists()]
    by_path, by_size = dict[Path, ClipEntry](), dict[int, list[ClipEntry]]()
    for entry in whole:
        by_path.setdefault(entry.path.resolve(), entry)
        if entry.path.is_file():
            by_size.setdefault(entry.path.stat().st_size, []).append(entry)
    listed, further = [], []
    for video in videos:
        match = by_path.get(video.path.resolve())
        if match is None and video.path.is_file() and (candidates := by_size.get(video.path.stat().st_size)):
            digest = sha256_file(video.path)
            match = next((e for e in candidates if sha256_file(e.path) == digest), None)
        if match is None:
            further.append(video)
        else:
            listed.append((match, video.label))
    return listed, further
