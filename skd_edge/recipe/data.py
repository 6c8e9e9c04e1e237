"""The section ``data`` of a recipe: where clips and their labels come from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from skd_edge.recipe.base import RecipeSection, Share, exclude_when_default


class GeneratedData(RecipeSection):
    """Generated clips: each class is a motion. They are rendered once to H.264 files; no download is needed."""

    kind: Literal["generated"]
    train: int = Field(1800, ge=20, le=200_000, description="number of training clips")
    val: int = Field(300, ge=10, le=100_000, description="number of validation clips")
    test: int = Field(400, ge=10, le=100_000, description="number of test clips")
    frames: int = Field(16, ge=4, le=256, description="frames in each rendered video")
    size: int = Field(32, ge=16, le=512, multiple_of=2, description="height and width of the rendered video, pixels")
    nothing: int = Field(
        0,
        ge=0,
        le=1000,
        description="adds a class without motion, with this many times the training clips of another class; 0: no such "
        "class",
    )
    difficulty: Share = Field(0.12, description="0 is easy, 1 is hard: contrast, sensor noise, drift, distractors")


def find_pattern_problem(pattern: str) -> str | None:
    """Why a text is not a regular expression; None if it is one."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"{pattern!r} is not a valid regular expression: {error}; correct it"
    return None


def _check_regex(pattern: str | None) -> str | None:
    if pattern is not None and (problem := find_pattern_problem(pattern)):
        raise ValueError(problem)
    return pattern


GroupPattern = Annotated[
    str | None,
    Field(
        max_length=200,
        description="regular expression that is searched in a clip's name; clips with the same match (of the first "
        "group, if there is one) belong together: they are in the same split, and confidence intervals resample whole "
        "groups. Default: each clip is its own group",
    ),
    AfterValidator(_check_regex),
]
TrustedClips = Annotated[
    Path | None,
    Field(
        exclude_if=exclude_when_default(None),
        description="training clips whose labels a person checked: a folder with one folder for each class, or a CSV "
        "with columns path (relative to the CSV) and label. Clips that are training clips already keep their weak "
        "label beside the checked one. None of them may be a validation or test clip, or of such a group",
    ),
]
SECONDS_DESCRIPTION = (
    "column with the time at which the clip {} in its video, in seconds or as 1:02:03.5; an empty cell means the {} of "
    "the video"
)


class _PictureData(RecipeSection):
    """A kind of data whose clips may be folders of pictures."""

    frame_rate: float = Field(
        25.0,
        gt=0,
        le=1000,
        exclude_if=exclude_when_default(25.0),
        description="pictures per second of clips that are folders of numbered JPEG or PNG pictures. Frames are "
        "sampled by their place in the folder; the rate is needed for times in seconds only",
    )


LabelReading = Annotated[
    Literal["names", "indices"] | None,
    Field(
        exclude_if=exclude_when_default(None),
        description="how labels are read where `classes` names classes by numbers: as names, or as indices (from 0). "
        "Default: the reading that fits all labels; it is an error if both do and they differ",
    ),
]


class FolderData(_PictureData):
    """One folder for each class: ``root/<class>/<video>``; the folder's name is the weak label.

    A clip is a video file, or a folder of numbered JPEG or PNG pictures.
    """

    kind: Literal["folder"]
    root: Path | None = Field(
        None,
        description="folder of the class folders; relative to the recipe, as every path; `${NAME}` is replaced by that "
        "environment variable",
    )
    unlabelled: Path | None = Field(
        None,
        exclude_if=exclude_when_default(None),
        description="folder of more training videos, at any depth, without labels. Without root, they are the only "
        "training videos, and labels.rules, labels.models or labels.trusted must label them",
    )
    val_root: Path | None = Field(
        None, description="validation clips with checked labels, same layout; default: a share of root"
    )
    test_root: Path | None = Field(None, description="test clips, same layout; default: a share of root")
    val: Share = Field(0.15, description="share of root that is used for validation, without val_root")
    test: Share = Field(
        0.15, description="share of root (or of val_root, without root) that is used for testing, without test_root"
    )
    group: GroupPattern = None
    pictures: Literal["auto", "always"] = Field(
        "auto",
        exclude_if=exclude_when_default("auto"),
        description="folders of pictures are clips: only where the folder holds no video (auto; beside videos they are "
        "usually thumbnails), or always",
    )
    trusted: TrustedClips = None

    @model_validator(mode="after")
    def _check_has_source(self) -> FolderData:
        if self.root is None and self.unlabelled is None:
            raise ValueError("data.root is missing; give the folder that contains one folder for each class")
        if self.root is None and self.val_root is None:
            raise ValueError(
                "without data.root, validation clips are not labelled by their folder; give data.val_root, with one "
                "folder for each class"
            )
        return self


class TableData(_PictureData):
    """A CSV with a header, or a Parquet file, with columns of paths and labels; column values decide a row's split.

    A training row with an empty label is an unlabelled clip, which gets a pseudo-label. Labels of several annotators
    are given in several columns (``votes``), or in several rows with the annotator's name in a column (``annotator``).
    Validation and test clips still need their ``label``.
    """

    kind: Literal["csv"]
    root: Path
    file: Path = Field(Path("index.csv"), description="the CSV (or .parquet) file, relative to root")
    path: str = Field("path", description="column with the video's path, relative to root")
    label: str = Field(
        "label", description="column with the class name; an empty cell means an unlabelled training clip"
    )
    votes: tuple[str, ...] = Field(
        (),
        description="columns of several annotators, whose labels of the training clips replace `label`; an empty cell "
        "is no vote",
    )
    annotator: str | None = Field(
        None, description="column with the annotator of the row's label, if a training clip has one row for each vote"
    )
    group: str | None = Field(
        None, description="column of groups: clips with the same value (a source video, an actor) belong together"
    )
    start: str | None = Field(None, description=SECONDS_DESCRIPTION.format("begins", "start"))
    end: str | None = Field(None, description=SECONDS_DESCRIPTION.format("ends", "end"))
    train: dict[str, list[str]] = Field(
        description="training rows, by column: those with one of these values in each named column"
    )
    val: dict[str, list[str]]
    test: dict[str, list[str]]
    trusted: TrustedClips = None

    @field_validator("votes")
    @classmethod
    def _check_distinct_votes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({v for v in value if value.count(v) > 1}):
            raise ValueError(f"the column {twice[0]!r} is named twice; each annotator needs their own column")
        return value

    @model_validator(mode="after")
    def _check_single_vote_layout(self) -> TableData:
        if self.votes and self.annotator:
            raise ValueError(
                "data.votes (a column per annotator) and data.annotator (a row per vote) cannot be combined; keep one"
            )
        return self


class ListData(_PictureData):
    """Lines of ``path label`` (the label is a name or an index), one file for each split, as in mmaction2.

    Rows ``folder number label`` name a folder of pictures, and how many it holds (mmaction2's rawframes).
    """

    kind: Literal["list"]
    root: Path
    train: Path
    val: Path
    test: Path
    classes: Path | None = Field(None, description="file with one class name per line; needed if labels are numbers")
    labels_are: LabelReading = None
    group: GroupPattern = None
    trusted: TrustedClips = None


class OfficialData(RecipeSection):
    """UCF101 or HMDB51 with the official split files; a share of the training videos' groups is used for validation."""

    kind: Literal["ucf101", "hmdb51"]
    root: Path = Field(description="folder of the videos: one folder for each class, or all in one")
    splits: Path = Field(description="folder of the official split files, relative to root")
    split: int = Field(1, ge=1, le=3, description="which of the three official splits")
    val: Share = Field(0.15, description="share of the training clips that is used for validation, in whole groups")
    trusted: TrustedClips = None


class KineticsData(RecipeSection):
    """CSV files of Kinetics (label, youtube_id, time_start, time_end), one for each split.

    A video file named ``<youtube_id>_<start>_<end>`` (six digits each) is already the clip. From a file named
    ``<youtube_id>``, the clip is the part between the two times.
    """

    kind: Literal["kinetics"]
    root: Path = Field(description="folder of the videos, at any depth")
    train: Path
    val: Path
    test: Path
    trusted: TrustedClips = None


class ShardData(RecipeSection):
    """WebDataset shards: plain tar files of samples, read in place (needs skd-edge[data])."""

    kind: Literal["webdataset"]
    root: Path
    train: str = Field(description="the training shards, relative to root: train-{0000..0099}.tar")
    val: str
    test: str
    label: str = Field(
        "cls",
        min_length=1,
        description="file ending of the member with the class (name or index), or json.KEY for a key in the .json",
    )
    classes: Path | None = Field(None, description="file with one class name per line; needed if labels are numbers")
    labels_are: LabelReading = None
    group: GroupPattern = None
    trusted: TrustedClips = None


Data = Annotated[
    GeneratedData | FolderData | TableData | ListData | OfficialData | KineticsData | ShardData,
    Field(discriminator="kind"),
]
