"""The section ``cross_validation`` of a recipe: how ``skd-edge crossval`` divides the clips into folds by group."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from skd_edge.recipe.base import RecipeSection, exclude_when_default


class CrossValidation(RecipeSection):
    """Leave-groups-out folds: in each, some groups are test clips, others validation clips, the rest training clips.

    ``compress`` does not use this section: it makes one run, with the splits of ``data``.
    """

    folds: int = Field(5, ge=2, le=100, description="number of folds; each group is tested in one of them")
    group: str | None = Field(
        None,
        max_length=200,
        description="what belongs together, as in `data.group`: a column (kind: csv), or a regular expression "
        "that is searched in a clip's name (kinds folder, list, webdataset). Default: `data.group`",
    )
    score: Literal["all", "checked"] = Field(
        "all",
        description="which clips are tested: all: every clip with a label, also those of the training split, whose "
        "labels must then be right; checked: only those of the validation and test splits. Clips of the training "
        "split are then used for training alone, and not where their group has a checked clip",
    )
    val: float = Field(
        0.2,
        gt=0,
        lt=0.9,
        description="score: all: share of the clips of the other groups that validates, in whole groups; score: "
        "checked: all checked clips of other groups validate",
    )
    fold: int | None = Field(
        None,
        ge=1,
        exclude_if=exclude_when_default(None),
        description="the fold that a run trains, from 1; `crossval` sets it for the run of each fold. Default: the "
        "splits of `data`",
    )

    @model_validator(mode="after")
    def _check_fold_exists(self) -> CrossValidation:
        if self.fold is not None and self.fold > self.folds:
            raise ValueError(
                f"cross_validation.fold is {self.fold}, but there are {self.folds} folds; give one of these"
            )
        return self
