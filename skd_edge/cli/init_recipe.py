"""``skd-edge init``: inspect a folder of videos and write a commented recipe for it, about 25 lines."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from skd_bench.errors import UsageError, UserError
from skd_bench.files import write_atomic
from skd_bench.listing.class_names import normalise_class_name
from skd_bench.listing.folder_walk import VIDEO_ENDINGS_TEXT, LeftOut, find_clips, is_video_name
from skd_bench.listing.paths import format_path_name, resolve_listed_path
from skd_bench.listing.tables import TABLE_SUFFIXES, read_header, read_rows
from skd_bench.untrusted.text import escape_name
from skd_bench.video.container import open_container
from skd_bench.video.frame_folder import decode_picture, list_frames
from skd_bench.video.stream.pictures import DecodingCount, find_video_stream, iter_packets, iter_pictures
from skd_edge.data.sources.listing import find_file_copies
from skd_edge.data.sources.path_lists import read_path_label_lists
from skd_edge.labels.sources.keyword_rules import normalise_words, rule_votes
from skd_edge.recipe.data import ListData
from skd_edge.recipe.labels import KeywordRule, has_word_character
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
        data: the section ``data`` of the recipe, values as YAML text; roots are names of folders in ``root``.
        clips: number of clips of each class, in all splits.
        width: smallest width of the probed videos, pixels.
        height: smallest height of the probed videos, pixels.
        frames: smallest and largest number of frames of the probed videos.
        warnings: problems that the user should solve before training.
        left_out: what the folder holds besides clips; empty if nothing.
        unlabelled: number of training clips that only rules label.
        rules: for each class, the keyword of its rule, and how many of these clips it labels.
    """

    root: Path
    data: Mapping[str, str]
    clips: Mapping[str, int]
    width: int
    height: int
    frames: tuple[int, int]
    warnings: tuple[str, ...] = field(default_factory=tuple)
    left_out: str = ""
    unlabelled: int = 0
    rules: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def clip_count(self) -> int:
        """Number of clips, labelled or not."""
        return sum(self.clips.values()) + self.unlabelled

    def to_text(self) -> str:
        """The number of clips of each class, what its rule labels, and the warnings."""
        lines = [f"{format_short_value(str(self.root))[1:-1]}: {self.format_summary()}"]
        names = sorted(self.clips)
        lines += [f"  {self.clips[name]:>6}  {escape_name(name)}{self._format_rule(name)}" for name in names[:20]]
        lines += [f"  ... and {len(names) - 20} more classes"] if len(names) > 20 else []
        lines += [self.left_out] if self.left_out else []
        return "\n".join([*lines, *(escape_name(f"warning: {w}") for w in self.warnings)])

    def _format_rule(self, name: str) -> str:
        if name not in self.rules:
            return ""
        keyword, count = self.rules[name]
        return f" checked; the keyword {escape_name(repr(keyword))} labels {count} videos"

    def format_summary(self) -> str:
        """One line: number of clips and classes, size and frames of the probed videos."""
        low, high = self.frames
        clips = f"{sum(self.clips.values())} clips in {len(self.clips)} classes"
        if self.unlabelled:
            clips = f"{self.unlabelled} videos without labels, and checked: {clips}"
        return f"{clips}; probed videos: {self.width}x{self.height}, {low} to {high} frames"


def write_recipe(folder: Path, out: Path, *, force: bool = False, checked: Path | None = None) -> FolderSurvey:
    """Inspect a folder of videos and write a commented recipe for it.

    Args:
        folder: a folder for each class, or ``train``/``val``/``test`` folders of these, or videos with a table
            (``index.csv``) or with lists (``train.txt``, ``val.txt``, ``test.txt``).
        out: the recipe to write.
        force: overwrite a file that is there.
        checked: a folder for each class, with clips whose labels are right. Then ``folder`` holds videos without
            labels, at any depth; the recipe has a rule for each class.

    Returns:
        What was found.

    Raises:
        UsageError: the folder has none of these layouts, or ``out`` exists and ``force`` is False.
    """
    if out.exists() and (out.is_dir() or not force):
        raise UsageError(
            f"{out} exists already; give another --out{'' if out.is_dir() else ', or --force to overwrite it'}"
        )
    folder_survey = survey_folder(folder) if checked is None else survey_unlabelled(folder, checked)
    write_atomic(out, format_recipe(folder_survey, out))
    return folder_survey


# ------------------------------------------------------------------------------------------ inspecting
def survey_folder(folder: Path) -> FolderSurvey:
    """Find the layout of a folder, its classes and clips, and the size of some of its videos.

    Raises:
        UsageError: a recipe cannot train on it: not a folder, no readable videos, no labels, or only one class.
    """
    try:
        str(folder.absolute()).encode()
        entries = sorted(folder.iterdir())
    except UnicodeEncodeError:
        raise UsageError(
            f"{format_short_value(str(folder))}: not UTF-8, so a recipe cannot contain this name; rename it"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{folder}: {reason}; give a folder of videos") from None
    tables = [e for e in entries if e.suffix.lower() in TABLE_SUFFIXES and not e.name.startswith(".")]
    if index := next((t for t in tables if t.stem == "index"), None):
        return _survey_table(folder, index)
    lists = {split: f for split, names in _SPLIT_NAMES.items() if (f := _find_split_list(entries, names))}
    if len(lists) == len(_SPLIT_NAMES):
        return _survey_lists(folder, lists, entries)
    splits = {split: _find_split_folder(entries, names) for split, names in _SPLIT_NAMES.items()}
    if splits["train"]:
        return _survey_split_folders(folder, {k: v for k, v in splits.items() if v})
    left_out = LeftOut()
    videos = _find_videos_by_class(folder, left_out)
    if not videos and tables:
        return _survey_table(folder, tables[0])
    if not videos:
        loose = [e for e in entries if is_video_name(e.name) and not e.name.startswith(".") and os.path.isfile(e)]
        _raise_unlabelled_folder(folder, loose, left_out)
    data = {"kind": "folder", "root": "", "val": "0.15", "test": "0.15"}
    return _make_survey(folder, data, videos, [], left_out)


def survey_unlabelled(folder: Path, checked: Path) -> FolderSurvey:
    """Survey videos without labels, and a few checked ones; keywords made of the class names label the others.

    Raises:
        UsageError: One of them holds no videos, or there is only one class.
    """
    left_out = LeftOut()
    for each in (folder, checked):
        if not each.is_dir():
            raise UsageError(f"{each} is not a folder; give a folder of videos")
    by_class = _find_videos_by_class(checked, left_out)
    if len(by_class) < 2:
        found = f"videos of one class only ({next(iter(by_class))!r})" if by_class else "no videos"
        raise UsageError(
            f"--checked {checked}: {found}; it needs one folder for each class, with videos whose label is right"
        )
    known = {path for paths in by_class.values() for path in paths}
    videos = [clip for clip in find_clips(folder, left_out) if clip.path not in known]
    copies = find_file_copies((clip.path for clip in videos), known)
    videos = [clip for clip in videos if clip.path not in copies]
    if not videos:
        raise UsageError(f"{folder}: no videos besides those of {checked} ({VIDEO_ENDINGS_TEXT})")
    rules = _make_class_rules(sorted(by_class), [clip.name for clip in videos])
    warnings = [
        f"no video has the keyword {keyword!r}, and a class without any vote is refused: write other keywords for "
        f"{name!r} in labels.rules"
        for name, (keyword, count) in rules.items()
        if not count
    ]
    if few := sorted(name for name, paths in by_class.items() if len(paths) < FEW_CLIPS):
        warnings.append(
            f"{len(few)} classes have fewer than {FEW_CLIPS} checked clips (first: {few[0]!r}); half of them choose "
            "and half test, so the figures will be rough"
        )
    data = {"kind": "folder", "unlabelled": "", "val_root": str(checked.absolute()), "test": "0.5"}
    survey = _make_survey(folder, data, {**by_class, "": [clip.path for clip in videos]}, warnings, left_out)
    clips = {name: count for name, count in survey.clips.items() if name}
    return replace(survey, clips=clips, unlabelled=len(videos), rules=rules)


def _make_class_rules(classes: Sequence[str], names: Sequence[str]) -> dict[str, tuple[str, int]]:
    """For each class, a keyword of the words of its name, and how many of the clips that labels."""
    keywords = {name: " ".join(normalise_words(name).split()) or name for name in classes}
    rules = [
        KeywordRule(label=name, any=(keyword,), within=("path",))
        for name, keyword in keywords.items()
        if has_word_character(keyword)
    ]
    votes = Counter(rule_votes(rules, names, {})["rules"]) if rules else Counter[str]()
    return {rule.label: (rule.any[0], votes[rule.label]) for rule in rules}


def _find_videos_by_class(root: Path, left_out: LeftOut) -> dict[str, list[Path]]:
    """Clips by class: those at any depth below each folder. A folder without clips is not a class."""
    found: dict[str, list[Path]] = {}
    for clip in find_clips(root, left_out, by_class=True):
        found.setdefault(normalise_class_name(clip.name.partition("/")[0]), []).append(clip.path)
    return found


def _find_split_folder(entries: Iterable[Path], names: tuple[str, ...]) -> Path | None:
    """The folder of a split: it has one of these names, and contains class folders."""
    return next(
        (e for e in entries if e.name.lower() in names and e.is_dir() and find_clips(e, LeftOut(), by_class=True)), None
    )


def _find_split_list(entries: Iterable[Path], names: tuple[str, ...]) -> Path | None:
    """The list of a split: ``train.txt``, ``trainlist.txt`` or ``train_list.txt``."""
    usual = {f"{name}{rest}" for name in names for rest in ("", "list", "_list", "s", "_videos")}
    return next((e for e in entries if e.suffix.lower() == ".txt" and e.stem.lower() in usual and e.is_file()), None)


def _raise_unlabelled_folder(folder: Path, videos: list[Path], left_out: LeftOut) -> None:
    if videos:
        raise UsageError(
            f"{folder}: {len(videos)} videos without labels; move them into one folder for each class "
            f"({folder.name}/CLASS/{videos[0].name}), or add index.csv with the columns path, label and split. If "
            "their names tell the class, put a few that you have looked at into one folder for each class, and add "
            "--checked FOLDER: rules label the others (docs/tutorial.md)"
        )
    rest = f"; {text}" if (text := left_out.to_text()) else ""
    raise UsageError(f"{folder}: no videos in this folder or in its subfolders ({VIDEO_ENDINGS_TEXT}){rest}")


def _survey_split_folders(folder: Path, splits: Mapping[str, Path]) -> FolderSurvey:
    data = {"kind": "folder", "root": splits["train"].name}
    for split in ("val", "test"):
        if split in splits:
            data[f"{split}_root"] = splits[split].name
        else:
            data[split] = "0.15"
    left_out = LeftOut()
    by_split = {split: _find_videos_by_class(path, left_out) for split, path in splits.items()}
    videos: dict[str, list[Path]] = {}
    for classes in by_split.values():
        for name, found in classes.items():
            videos.setdefault(name, []).extend(found)
    warnings = [
        f"class {name!r} is in {split} and not in train"
        for split, classes in by_split.items()
        for name in sorted(set(classes) - set(by_split["train"]))
    ]
    return _make_survey(folder, data, videos, warnings, left_out)


def _survey_lists(folder: Path, lists: Mapping[str, Path], entries: Iterable[Path]) -> FolderSurvey:
    """Survey lists of lines ``path label``, one for each split."""
    usual = {"classes.txt", "labels.txt", "class_names.txt"}
    classes = next((Path(e.name) for e in entries if e.name.lower() in usual), None)
    train, val, test = (Path(lists[split].name) for split in _SPLIT_NAMES)
    section = ListData(kind="list", root=folder, train=train, val=val, test=test, classes=classes)
    try:
        listing = read_path_label_lists(section)
    except UserError as error:
        raise UsageError(str(error)) from None
    data = {"kind": "list", "root": ""} | {split: _format_scalar(file.name) for split, file in lists.items()}
    if classes is not None:
        data["classes"] = _format_scalar(classes.name)
    videos: dict[str, list[Path]] = {}
    for entry in listing.entries:
        videos.setdefault(entry.label, []).append(entry.path)
    return _make_survey(folder, data, videos, [], LeftOut())


def _survey_table(folder: Path, table: Path) -> FolderSurvey:
    """Survey a table with columns for path, label and split, recognised by their usual names."""
    try:
        header = [name for name in read_header(table) if name]
    except UserError as error:
        raise UsageError(str(error)) from None
    column_by_role = {
        want: next((h for h in header if h.strip().lower() in usual), None) for want, usual in _COLUMN_NAMES.items()
    }
    path, label, split = column_by_role["path"], column_by_role["label"], column_by_role["split"]
    if path is None or label is None or split is None:
        lacking = [want for want in ("path", "label", "split") if column_by_role[want] is None]
        raise UsageError(
            f"{table}: no column for {', '.join(lacking)} (its columns: {', '.join(header) or 'none'}); "
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
    try:
        rows = [row for _, row in read_rows(table, (path, label, split))]
    except UserError as error:
        raise UsageError(str(error)) from None
    values, used = {value for *_, value in rows if value}, set[str]()
    for name, usual in _SPLIT_NAMES.items():
        if not (matching := sorted(v for v in values if v.strip().lower() in usual)):
            raise UsageError(
                f"{table}: no row whose {split!r} is {name!r} (its values: {', '.join(sorted(values)[:9])})"
            )
        used.update(matching)
        data[name] = f"{{{_format_scalar(split)}: [{', '.join(map(_format_scalar, matching))}]}}"
    videos: dict[str, list[Path]] = {}
    for listed, name, value in rows:
        if listed and name.strip() and value in used:
            videos.setdefault(normalise_class_name(name), []).append(resolve_listed_path(folder, listed)[0])
    unused = len(rows) - sum(value in used for *_, value in rows)
    warnings = [f"{unused} rows of {table.name} are in no split ({split!r} is neither of these)"] if unused else []
    return _make_survey(folder, data, videos, warnings, LeftOut())


def _make_survey(
    folder: Path, data: Mapping[str, str], videos: Mapping[str, list[Path]], warnings: list[str], left_out: LeftOut
) -> FolderSurvey:
    if len(videos) < 2:
        only = f"one class ({next(iter(videos))!r})" if videos else "no labelled videos"
        raise UsageError(f"{folder}: {only}; a classifier needs at least two classes")
    for name, found in sorted(videos.items()) if "unlabelled" not in data else ():
        if len(found) < 3:
            warnings.append(
                f"class {name!r} has {len(found)} clip(s): too few for train, val and test; add some or remove it"
            )
        elif len(found) < FEW_CLIPS:
            warnings.append(f"class {name!r} has {len(found)} clips: too few to train and to measure this class well")
    probes: list[tuple[int, int, int]] = []
    for path in _pick_sample_videos(videos):
        try:
            probes.append(_probe_video(path))
        except Exception as error:  # PyAV raises many types; each means that the file is not usable
            name = format_path_name(str(path))
            warnings.append(f"{name}: cannot be read as a video: {' '.join(str(error).split())[:160]}")
    if not probes:
        probed = len(_pick_sample_videos(videos))
        raise UsageError(f"{folder}: none of the {probed} videos that were probed can be read; {warnings[-1]}")
    widths, heights, frames = zip(*probes, strict=True)
    clips = Counter({name: len(found) for name, found in videos.items()})
    lengths = (min(frames), max(frames))
    return FolderSurvey(folder, data, clips, min(widths), min(heights), lengths, tuple(warnings), left_out.to_text())


def _pick_sample_videos(videos: Mapping[str, list[Path]]) -> list[Path]:
    """Up to `MAX_PROBED_VIDEOS` videos, from as many classes as possible."""
    ranked = sorted(
        (rank, name, path) for name, found in videos.items() for rank, path in enumerate(found[:MAX_PROBED_VIDEOS])
    )
    return [path for _, _, path in ranked[:MAX_PROBED_VIDEOS]]


def _probe_video(path: Path) -> tuple[int, int, int]:
    """Width, height and number of frames of a clip. Packets are counted; only the first frame is decoded."""
    if path.is_dir():
        pictures = list_frames(path)
        if (picture := decode_picture(pictures[0])) is None:
            raise ValueError(f"{pictures[0].name} cannot be decoded")
        return picture.width, picture.height, len(pictures)
    with open_container(path) as container:
        stream, decoded = find_video_stream(container), DecodingCount()
        packets = iter_packets(container, stream)  # never from the start again: raw H.264 and H.265 cannot be sought
        first = next(iter_pictures(stream.codec_context, packets, decoded), None)
        if first is None:
            raise ValueError("no frame in the video stream")
        frames = stream.frames or decoded.packets + sum(1 for packet in packets if packet.size)
        return first.width, first.height, frames


# ------------------------------------------------------------------------------------------ writing
def format_recipe(folder_survey: FolderSurvey, out: Path) -> str:
    """A commented recipe for a survey; ``out`` is the recipe's file, which its paths are relative to."""
    clips = folder_survey.clip_count
    data = "\n".join(f"  {line}" for line in _format_data_lines(folder_survey, out))
    return f"""\
# Written by 'skd-edge init'. Every other setting has a default; 'skd-edge schema' lists them all.
# {folder_survey.format_summary()}
name: {_make_recipe_name(folder_survey.root)}
seed: 0
data:
{data}
clip:
  frames: {max(1, min(8, folder_survey.frames[0]))}  # input frames of the network, sampled evenly from each clip
  size: {_choose_input_size(folder_survey)}  # height and width of the network's input; smaller is faster
labels:
  optimise: true  # estimate better labels from the weak ones before students are trained
{_format_rule_lines(folder_survey)}teacher: {{family: resnet, width: 32}}  # trained here on the weak labels
assistants:  # networks of intermediate size, trained between teacher and student; [] for none
  - {{name: assistant, family: mobile, width: 24}}
students:  # the candidates for deployment; a smaller width is faster
  - {{name: wide, family: mobile, width: 16}}
  - {{name: narrow, family: mobile, width: 8}}
training:
  teacher_epochs: 14
  epochs: 12  # of every assistant and student; in our study, more epochs were the cheapest improvement
  batch: {next((b for b in (64, 32, 16) if clips >= 8 * b), 8)}
export:
  precisions: [fp32, int8]
  calibration_clips: {max(1, min(128, clips // 2))}  # training clips for INT8 calibration
choice:
  budget: 0.5 x teacher  # the latency limit, or e.g. 8 ms; remove it to trade accuracy against latency
licences: {{data: not stated, weights: not stated}}  # written into the bundle's manifest
"""


def _format_rule_lines(folder_survey: FolderSurvey) -> str:
    """The setting ``labels.rules``; empty where the data labels the clips."""
    if not folder_survey.rules:
        return ""
    lines = ["  rules:  # a vote for each video whose path has the keyword; made of the class names, so edit them"]
    for name, (keyword, count) in folder_survey.rules.items():
        rule = f"{{label: {_format_scalar(name)}, any: [{_quote_text(keyword)}], within: [path]}}"
        lines.append(f"    - {rule}  # labels {count} videos")
    return "\n".join(lines) + "\n"


def _format_data_lines(folder_survey: FolderSurvey, out: Path) -> list[str]:
    by_class = folder_survey.data["kind"] == "folder" and not folder_survey.unlabelled
    notes = {
        "kind": "one folder for each class; its name is the weak label" if by_class else "",
        "unlabelled": "training videos, at any depth; the rules below label them",
        "val_root": "one folder for each class: clips whose label is right; they are not trained on"
        if folder_survey.unlabelled
        else "",
        "root": "relative to this file",
        "val": "share of the clips for validation",
        "test": f"share of {'these' if folder_survey.unlabelled else 'the clips'} for the final test",
        "group": "rows with the same value stay in the same split",
    }
    roots = {"root", "unlabelled", "val_root", "test_root"}
    lines = []
    for key, value in folder_survey.data.items():
        text = _format_path(folder_survey.root / value, out) if key in roots else value
        note = notes.get(key, "") if not text.startswith("{") else ""
        if key == "root" and text.startswith('"/'):
            note = ""
        lines.append(f"{key}: {text}" + (f"  # {note}" if note else ""))
    return lines


def _format_path(path: Path, out: Path) -> str:
    """A quoted path: relative to the recipe where it is in the recipe's folder, else absolute."""
    near = os.path.relpath(path.absolute(), out.absolute().parent)
    text = str(path.absolute()) if near.startswith("..") else near
    return _quote_text(escape_path(f"./{text}" if text.startswith("~") else text))


def _quote_text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _format_scalar(text: str) -> str:
    """The text unquoted where YAML reads it back as the same text, else quoted."""
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
