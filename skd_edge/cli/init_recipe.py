"""A first recipe for a folder of videos: look at what is there, write about 25 commented lines that validate."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from skd_bench.errors import UsageError
from skd_bench.files import write_atomic
from skd_bench.video.container import open_container
from skd_edge.data.sources.registry import VIDEO_SUFFIXES
from skd_edge.recipe.validation import escape_path, format_short_value
from skd_edge.recipe.yaml_nodes import parse_plain_scalar

FEW_CLIPS = 10
MAX_PROBED_VIDEOS = 9

_COLUMN_NAMES = {
    "path": ("path", "file", "filename", "video", "video_path", "clip"),
    "label": ("label", "class", "category", "action", "class_name"),
    "split": ("split", "subset", "partition", "set"),
    "group": ("group", "actor", "subject", "person", "source"),
}
_SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class FolderSurvey:
    """What was found in a folder of videos.

    Attributes:
        root: the folder.
        data: the ``data`` section that describes it, values as YAML text; roots as folder names beneath ``root``.
        clips: clips a class, all splits together.
        width: smallest width of the videos that were looked at, pixels.
        height: smallest height of them, pixels.
        frames: fewest and most frames of them.
        warnings: what the user should know before training.
    """

    root: Path
    data: Mapping[str, str]
    clips: Mapping[str, int]
    width: int
    height: int
    frames: tuple[int, int]
    warnings: tuple[str, ...] = field(default_factory=tuple)

    def to_text(self) -> str:
        """The clips of each class, and the warnings."""
        lines = [f"{format_short_value(str(self.root))[1:-1]}: {self.format_summary()}"]
        names = sorted(self.clips)
        lines += [f"  {self.clips[name]:>6}  {name}" for name in names[:20]]
        lines += [f"  ... and {len(names) - 20} more classes"] if len(names) > 20 else []
        return "\n".join([*lines, *(f"warning: {w}" for w in self.warnings)])

    def format_summary(self) -> str:
        """One line: clips, classes, pixels, frames."""
        low, high = self.frames
        return (
            f"{sum(self.clips.values())} clips in {len(self.clips)} classes; those looked at: "
            f"{self.width}x{self.height}, {low} to {high} frames"
        )


def write_recipe(folder: Path, out: Path, *, force: bool = False) -> FolderSurvey:
    """Look at a folder of videos and write a commented recipe for it.

    Args:
        folder: one folder a class, or ``train``/``val``/``test`` folders of these, or videos with a CSV index.
        out: the recipe to write.
        force: overwrite a file that is there.

    Returns:
        What was found.

    Raises:
        UsageError: the folder is no such folder, or ``out`` is there already.
    """
    if out.exists() and (out.is_dir() or not force):
        raise UsageError(f"{out} is there already; give another --out{'' if out.is_dir() else ', or --force'}")
    folder_survey = survey_folder(folder)
    write_atomic(out, format_recipe(folder_survey, out))
    return folder_survey


# ------------------------------------------------------------------------------------------ looking
def survey_folder(folder: Path) -> FolderSurvey:
    """What kind of data set a folder holds, its classes and clips, and how its videos look.

    Raises:
        UsageError: nothing that a recipe could train on: no folder, no videos, no classes, one class.
    """
    try:
        str(folder.absolute()).encode()
        entries = sorted(folder.iterdir())
    except UnicodeEncodeError:
        raise UsageError(
            f"{format_short_value(str(folder))}: a name that is not UTF-8, which a recipe cannot hold; rename"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{folder}: {reason}; give a folder of videos") from None
    tables = [e for e in entries if e.suffix.lower() == ".csv"]
    if index := next((t for t in tables if t.stem == "index"), None):
        return _survey_table(folder, index)
    splits = {split: _find_split_folder(entries, names) for split, names in _SPLIT_NAMES.items()}
    if splits["train"]:
        return _survey_split_folders(folder, {k: v for k, v in splits.items() if v})
    videos = _find_videos_by_class(folder)
    if not videos and tables:
        return _survey_table(folder, tables[0])
    if not videos:
        _raise_unlabelled_folder(folder, [e for e in entries if _is_video(e)])
    data = {"kind": "folder", "root": "", "val": "0.15", "test": "0.15"}
    return _make_survey(folder, data, videos, [])


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _find_videos_by_class(root: Path) -> dict[str, list[Path]]:
    """Videos of each class folder, at any depth in it; folders without videos are no classes."""
    folders = (d for d in sorted(root.iterdir()) if d.is_dir() and not d.name.startswith("."))
    found = {d.name: [v for v in sorted(d.rglob("*")) if _is_video(v)] for d in folders}
    return {name: videos for name, videos in found.items() if videos}


def _find_split_folder(entries: Iterable[Path], names: tuple[str, ...]) -> Path | None:
    """The folder of a split: called like one, and holding class folders itself."""
    return next((e for e in entries if e.name.lower() in names and e.is_dir() and _find_videos_by_class(e)), None)


def _raise_unlabelled_folder(folder: Path, videos: list[Path]) -> None:
    if videos:
        raise UsageError(
            f"{folder}: {len(videos)} videos, and nothing that says their classes; move them into one folder a class "
            f"({folder.name}/CLASS/{videos[0].name}), or add index.csv with the columns path, label and split; "
            "rules and models can label them too, beside a few trusted clips (data.unlabelled, docs/labels.md)"
        )
    raise UsageError(f"{folder}: no videos in it, nor in the folders in it ({', '.join(sorted(VIDEO_SUFFIXES))})")


def _survey_split_folders(folder: Path, splits: Mapping[str, Path]) -> FolderSurvey:
    data = {"kind": "folder", "root": splits["train"].name}
    for split in ("val", "test"):
        if split in splits:
            data[f"{split}_root"] = splits[split].name
        else:
            data[split] = "0.15"
    by_split = {split: _find_videos_by_class(path) for split, path in splits.items()}
    videos: dict[str, list[Path]] = {}
    for classes in by_split.values():
        for name, found in classes.items():
            videos.setdefault(name, []).extend(found)
    warnings = [
        f"class {name!r} is in {split} and not in train"
        for split, classes in by_split.items()
        for name in sorted(set(classes) - set(by_split["train"]))
    ]
    return _make_survey(folder, data, videos, warnings)


def _survey_table(folder: Path, table: Path) -> FolderSurvey:
    """A CSV with columns for path, label and split, by their usual names."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header = [name for name in reader.fieldnames or [] if name]
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{table}: cannot be read as CSV in UTF-8: {error}") from None
    column_by_role = {
        want: next((h for h in header if h.strip().lower() in usual), None) for want, usual in _COLUMN_NAMES.items()
    }
    path, label, split = column_by_role["path"], column_by_role["label"], column_by_role["split"]
    if path is None or label is None or split is None:
        lacking = [want for want in ("path", "label", "split") if column_by_role[want] is None]
        raise UsageError(
            f"{table}: no column for {', '.join(lacking)} (there are: {', '.join(header) or 'none'}); "
            "a recipe needs path, label, and split with the values train, val and test"
        )
    data = {
        "kind": "csv",
        "root": "",
        "file": _format_scalar(table.name),
        "path": _format_scalar(path),
        "label": _format_scalar(label),
    }
    if column_by_role["group"]:
        data["group"] = _format_scalar(column_by_role["group"])
    values = {row[split] for row in rows if row[split]}
    for name, usual in _SPLIT_NAMES.items():
        if not (matching := sorted(v for v in values if v.strip().lower() in usual)):
            raise UsageError(
                f"{table}: no row whose {split!r} is {name!r} (there are: {', '.join(sorted(values)[:9])})"
            )
        data[name] = f"{{{_format_scalar(split)}: [{', '.join(map(_format_scalar, matching))}]}}"
    videos: dict[str, list[Path]] = {}
    for row in rows:
        if row[path] and row[label]:
            videos.setdefault(row[label], []).append(folder / row[path])
    return _make_survey(folder, data, videos, [])


def _make_survey(
    folder: Path, data: Mapping[str, str], videos: Mapping[str, list[Path]], warnings: list[str]
) -> FolderSurvey:
    if len(videos) < 2:
        only = f"one class ({next(iter(videos))!r})" if videos else "no labelled videos"
        raise UsageError(f"{folder}: {only}; a classifier needs two or more")
    for name, found in sorted(videos.items()):
        if len(found) < 3:
            warnings.append(
                f"class {name!r} has {len(found)} clip(s): too few for train, val and test; add or remove it"
            )
        elif len(found) < FEW_CLIPS:
            warnings.append(f"class {name!r} has {len(found)} clips: too few to learn or to measure it well")
    probes: list[tuple[int, int, int]] = []
    for path in _pick_sample_videos(videos):
        try:
            probes.append(_probe_video(path))
        except Exception as error:  # PyAV raises many kinds; any of them means that this file is no good video
            warnings.append(f"{path}: cannot be read as a video: {' '.join(str(error).split())[:160]}")
    if not probes:
        raise UsageError(
            f"{folder}: none of the {len(_pick_sample_videos(videos))} videos looked at can be read; {warnings[-1]}"
        )
    widths, heights, frames = zip(*probes, strict=True)
    clips = Counter({name: len(found) for name, found in videos.items()})
    return FolderSurvey(folder, data, clips, min(widths), min(heights), (min(frames), max(frames)), tuple(warnings))


def _pick_sample_videos(videos: Mapping[str, list[Path]]) -> list[Path]:
    """A few videos, of as many classes as can be."""
    ranked = sorted(
        (rank, name, path) for name, found in videos.items() for rank, path in enumerate(found[:MAX_PROBED_VIDEOS])
    )
    return [path for _, _, path in ranked[:MAX_PROBED_VIDEOS]]


def _probe_video(path: Path) -> tuple[int, int, int]:
    """Width, height and frames of a video; the frames are counted by its packets, nothing but one is decoded."""
    with open_container(path) as container:
        if not container.streams.video:
            raise ValueError("no video stream")
        stream = container.streams.video[0]
        frames = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
        container.seek(0)
        first = next(container.decode(stream), None)
        if first is None:
            raise ValueError("no frame in it")
        return first.width, first.height, frames


# ------------------------------------------------------------------------------------------ writing
def format_recipe(folder_survey: FolderSurvey, out: Path) -> str:
    """A commented recipe for what was found; ``out`` is where it will be, for paths relative to it."""
    clips = sum(folder_survey.clips.values())
    data = "\n".join(f"  {line}" for line in _format_data_lines(folder_survey, out))
    return f"""\
# Written by 'skd-edge init'. What is left out has a default; 'skd-edge schema' lists every setting.
# {folder_survey.format_summary()}
name: {_make_recipe_name(folder_survey.root)}
seed: 0
data:
{data}
clip:
  frames: {max(1, min(8, folder_survey.frames[0]))}  # frames the network sees of each clip, spread over its length
  size: {_choose_input_size(folder_survey)}  # height and width of the network's input; smaller is faster
labels:
  optimise: true  # estimate better labels from the weak ones before distilling
teacher: {{family: resnet, width: 32}}  # trained here on the weak labels
assistants:  # stepping stones between teacher and student; [] to leave them out
  - {{name: assistant, family: mobile, width: 24}}
students:  # what could be deployed; width is what their speed depends on
  - {{name: wide, family: mobile, width: 16}}
  - {{name: narrow, family: mobile, width: 8}}
training:
  teacher_epochs: 14
  epochs: 12  # of every assistant and student; in our study more of them were the cheapest gain
  batch: {next((b for b in (64, 32, 16) if clips >= 8 * b), 8)}
export:
  precisions: [fp32, int8]
  calibration_clips: {max(1, min(128, clips // 2))}  # training clips that set the ranges of int8
choice:
  budget: 0.5 x teacher  # the latency to stay within, or e.g. 8 ms; remove it to weigh accuracy per millisecond
licences: {{data: not stated, weights: not stated}}  # goes into the bundle's manifest
"""


def _format_data_lines(folder_survey: FolderSurvey, out: Path) -> list[str]:
    notes = {
        "kind": "one folder a class; the folder's name is the weak label"
        if folder_survey.data["kind"] == "folder"
        else "",
        "root": "relative to this file",
        "val": "share of the clips kept for validation",
        "test": "share of the clips kept for one final test",
        "group": "rows that share a value stay in one split",
    }
    roots = {"root", "val_root", "test_root"}
    lines = []
    for key, value in folder_survey.data.items():
        text = _format_path(folder_survey.root / value, out) if key in roots else value
        note = notes.get(key, "") if not text.startswith("{") else ""
        if key == "root" and text.startswith('"/'):
            note = ""
        lines.append(f"{key}: {text}" + (f"  # {note}" if note else ""))
    return lines


def _format_path(path: Path, out: Path) -> str:
    """Relative to the recipe where the videos lie beside or beneath it, else absolute; quoted."""
    near = os.path.relpath(path.absolute(), out.absolute().parent)
    text = str(path.absolute()) if near.startswith("..") else near
    return _quote_text(escape_path(f"./{text}" if text.startswith("~") else text))


def _quote_text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _format_scalar(text: str) -> str:
    """Bare where YAML reads the same text, else quoted."""
    return (
        text
        if re.fullmatch(r"[A-Za-z][\w.-]{0,63}", text, re.ASCII) and parse_plain_scalar(text) == text
        else _quote_text(text)
    )


def _make_recipe_name(root: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", root.resolve().name).strip("-._")[:64]
    return (name if isinstance(parse_plain_scalar(name[:40]), str) else f"videos-{name}"[:64]) if name else "my-videos"


def _choose_input_size(folder_survey: FolderSurvey) -> int:
    short = min(folder_survey.width, folder_survey.height)
    return next((size for size in (64, 56, 48, 40, 32, 24) if size <= short), 16)
