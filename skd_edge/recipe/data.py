"""What a recipe may say of its data: where clips and their labels come from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from skd_edge.recipe.base import RecipeSection, Share, exclude_when_default


class GeneratedData(RecipeSection):
    """Clips whose class is a motion, rendered once to H.264 files; needs no download."""

    kind: Literal["generated"]
    train: int = Field(1800, ge=20, le=200_000, description="training clips")
    val: int = Field(300, ge=10, le=100_000, description="trusted validation clips")
    test: int = Field(400, ge=10, le=100_000, description="untouched test clips")
    frames: int = Field(16, ge=4, le=256, description="frames in each rendered video")
    size: int = Field(32, ge=16, le=512, multiple_of=2, description="height and width of the rendered video, pixels")
    nothing: int = Field(
        0,
        ge=0,
        le=1000,
        description="a class without motion, this many times as frequent in training as others; 0: none",
    )
    difficulty: Share = Field(0.12, description="0 easy, 1 hard: contrast, sensor noise, drift, distractors")


def _check_regex(pattern: str | None) -> str | None:
    if pattern is not None:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return pattern


GroupPattern = Annotated[
    str | None,
    Field(
        max_length=200,
        description="regular expression whose (first group's) match in a clip's name says which clips belong together; "
        "splits and intervals keep them so. Default: each for itself",
    ),
    AfterValidator(_check_regex),
]
SECONDS_DESCRIPTION = "column with the second at which the clip {} in its video (also 1:02:03.5); an empty cell: its {}"


class FolderData(RecipeSection):
    """One folder a class: ``root/<class>/<video>``; the folder's name is the weak label."""

    kind: Literal["folder"]
    root: Path | None = Field(
        None, description="relative to the recipe, as every path; `${NAME}` stands for a variable of the environment"
    )
    unlabelled: Path | None = Field(
        None,
        exclude_if=exclude_when_default(None),
        description="folder of more training videos, at any depth, that no folder labels; without root the only ones, "
        "for labels.rules, labels.models or labels.trusted to speak for",
    )
    val_root: Path | None = Field(None, description="trusted validation clips, same layout; else a share of root")
    test_root: Path | None = Field(None, description="untouched test clips, same layout; else a share of root")
    val: Share = Field(0.15, description="share of root used for validation where val_root is not given")
    test: Share = Field(
        0.15, description="share of root (without it, of val_root) used for testing where test_root is not given"
    )
    group: GroupPattern = None

    @model_validator(mode="after")
    def _check_has_source(self) -> FolderData:
        if self.root is None and self.unlabelled is None:
            raise ValueError("data.root is missing: the folder that holds one folder for each class")
        if self.root is None and self.val_root is None:
            raise ValueError(
                "without data.root no clip is labelled by its folder; name trusted clips, one folder a class: "
                "data.val_root"
            )
        return self


class TableData(RecipeSection):
    """A CSV with a header, or Parquet: columns of paths and labels, and rules that say which row is in which split.

    A training row whose label is empty is an unlabelled clip: it takes part through pseudo-labels. Several annotators
    have a column each, named by ``votes``, or a row each, told apart by ``annotator``; validation and test still need
    their trusted ``label``.
    """

    kind: Literal["csv"]
    root: Path
    file: Path = Field(Path("index.csv"), description="the CSV (or .parquet), relative to root")
    path: str = Field("path", description="column with the video's path, relative to root")
    label: str = Field("label", description="column with the class name; empty: an unlabelled training clip")
    votes: tuple[str, ...] = Field(
        (), description="columns of several annotators, who label the training clips instead; an empty cell abstains"
    )
    annotator: str | None = Field(
        None, description="column that says who gave the row's label, where a training clip has a row for each vote"
    )
    group: str | None = Field(None, description="column whose values belong together (a source video, an actor)")
    start: str | None = Field(None, description=SECONDS_DESCRIPTION.format("begins", "start"))
    end: str | None = Field(None, description=SECONDS_DESCRIPTION.format("ends", "end"))
    train: dict[str, list[str]] = Field(description="rows whose named columns hold one of these values")
    val: dict[str, list[str]]
    test: dict[str, list[str]]

    @field_validator("votes")
    @classmethod
    def _check_distinct_votes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({v for v in value if value.count(v) > 1}):
            raise ValueError(f"the column {twice[0]!r} is named twice; each annotator has a column of his own")
        return value

    @model_validator(mode="after")
    def _check_single_vote_layout(self) -> TableData:
        if self.votes and self.annotator:
            raise ValueError("data.votes (a column each) and data.annotator (a row each) exclude one another; keep one")
        return self


class ListData(RecipeSection):
    """Lines of ``path label`` (label: a name or an index), one file a split, as mmaction2 uses them."""

    kind: Literal["list"]
    root: Path
    train: Path
    val: Path
    test: Path
    classes: Path | None = Field(None, description="file with a class name a line; needed where labels are numbers")
    group: GroupPattern = None


class OfficialData(RecipeSection):
    """UCF101 or HMDB51 with their official split files; validation is a share of the training videos' groups."""

    kind: Literal["ucf101", "hmdb51"]
    root: Path = Field(description="folder of the videos: one folder a class, or all in one")
    splits: Path = Field(description="folder of the official split files, relative to root")
    split: int = Field(1, ge=1, le=3, description="which of the three official splits")
    val: Share = Field(0.15, description="share of the training clips used for validation, whole groups")


class KineticsData(RecipeSection):
    """Kinetics CSVs (label, youtube_id, time_start, time_end), one a split.

    A video called ``<youtube_id>_<start>_<end>`` (six digits each) is a clip that was cut already; of one called
    ``<youtube_id>`` the clip is the span from start to end.
    """

    kind: Literal["kinetics"]
    root: Path = Field(description="folder of the videos, at any depth")
    train: Path
    val: Path
    test: Path


class ShardData(RecipeSection):
    """WebDataset shards: plain tar files of samples, read in place (needs skd-edge[data])."""

    kind: Literal["webdataset"]
    root: Path
    train: str = Field(description="the training shards, relative to root: train-{0000..0099}.tar")
    val: str
    test: str
    label: str = Field(
        "cls", min_length=1, description="ending of the member with the class (name or index), or json.KEY of a .json"
    )
    classes: Path | None = Field(None, description="file with a class name a line; needed where labels are numbers")
    group: GroupPattern = None


Data = Annotated[
    GeneratedData | FolderData | TableData | ListData | OfficialData | KineticsData | ShardData,
    Field(discriminator="kind"),
]
