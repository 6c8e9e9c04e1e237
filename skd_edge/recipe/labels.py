"""What a recipe may say of its weak labels: noise for studies, rules and models that vote, and how they are mended."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from skd_edge.recipe.base import Name, RecipeSection, Share


class NoiseSettings(RecipeSection):
    """Label noise made by the recipe, for studies: the trusted splits stay clean."""

    kind: Literal["none", "symmetric", "classes", "instances", "voters"] = Field(
        "none",
        description="symmetric: any other class; classes: always the next class; instances: clips that a weak model "
        "confuses, by its confusions; voters: imperfect annotators, whose votes are aggregated",
    )
    rate: Share = Field(0.0, description="share of the training labels made wrong; of the average voter's votes")
    voters: int = Field(5, ge=1, le=100, description="annotators (kind: voters), the best far better than the worst")
    abstain: Share = Field(0.2, description="share of the clips that a voter leaves out (kind: voters)")


class KeywordRule(RecipeSection):
    """Training clips whose texts hold certain words get a vote for a class.

    A keyword is a word or a phrase of whole words, in any case; ``wav*`` is any word that begins so. No regular
    expressions: matching takes time in proportion to the text.
    """

    label: str = Field(min_length=1, description="the class that is voted for")
    any: tuple[str, ...] = Field((), description="one of these keywords at least must be there")
    all: tuple[str, ...] = Field((), description="each of these keywords must be there")
    none: tuple[str, ...] = Field((), description="none of these keywords may be there")
    within: tuple[str, ...] = Field(
        ("file",),
        min_length=1,
        description="where to look: file (its name), path (its folders too), or columns of labels.metadata (default: "
        "of the data's own table)",
    )
    weight: float = Field(1.0, gt=0, le=1e6, description="of rules of one voter that disagree the heavier side wins")
    voter: Name = Field("rules", description="rules of one name are one voter together")

    @model_validator(mode="after")
    def _check_keywords(self) -> KeywordRule:
        if not self.any and not self.all:
            raise ValueError("a rule needs keywords: give any, all, or both")
        if empty := [k for k in (*self.any, *self.all, *self.none) if not has_word_character(k)]:
            raise ValueError(f"the keyword {empty[0]!r} holds no letter and no digit")
        return self


def has_word_character(keyword: str) -> bool:
    """Whether a keyword holds something that can be looked for."""
    return any(c.isalnum() for c in keyword)


class ModelAnnotator(RecipeSection):
    """Another model whose predictions are votes: a table of probabilities, a bundle, or an ONNX file."""

    name: Name
    table: Path | None = Field(None, description="CSV: a column 'clip', then the probability of each class by its name")
    bundle: Path | None = Field(None, description="folder of a bundle, run here on the training clips")
    onnx: Path | None = Field(None, description="logits (B, classes) for clips as the recipe's `clip` prepares them")
    classes: tuple[str, ...] = Field((), description="onnx: its classes in order; default: those of the data")
    at_least: Share = Field(0.0, description="abstains on a clip where its highest probability is lower")

    @model_validator(mode="after")
    def _check_single_source(self) -> ModelAnnotator:
        if sum(x is not None for x in (self.table, self.bundle, self.onnx)) != 1:
            raise ValueError(f"the model {self.name!r} needs exactly one of table, bundle, onnx")
        if self.classes and self.onnx is None:
            raise ValueError("classes belong to onnx; a table and a bundle name their own")
        return self


class LabelSettings(RecipeSection):
    """Weak labels in, pseudo-labels out (method.md, idea c)."""

    noise: NoiseSettings = NoiseSettings()
    rules: tuple[KeywordRule, ...] = Field(
        (), description="keyword rules; with them the data's own label is one vote of many"
    )
    models: tuple[ModelAnnotator, ...] = Field((), description="models made elsewhere that vote as well")
    metadata: Path | None = Field(
        None, description="CSV with a column 'clip' and the texts that rules read; default: the data's own table"
    )
    trusted: Path | None = Field(
        None, description="CSV with columns clip, trusted (an edited audit.csv): these labels stay as they are"
    )
    prior: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="share of each class where it is known, for dawid-skene; default: estimated from the votes"
    )
    aggregate: Literal["dawid-skene", "majority"] = Field(
        "dawid-skene", description="how several votes become one label: weighed by each annotator's quality, or not"
    )
    optimise: bool = Field(True, description="estimate pseudo-labels; off: train on the weak labels as they are")
    method: Literal["neighbours", "mixture", "confident", "soft"] = Field(
        "neighbours",
        description="which labels are wrong, by: Bayes' rule with the clip's neighbours as witnesses; a mixture on the "
        "loss; confident learning (cleanlab); soft: trust no label",
    )
    folds: int = Field(
        0, ge=0, le=10, description="in the first round, out-of-fold opinions from this many networks; 0: ELR's memory"
    )
    prototypes: bool = Field(True, description="mixture: sharpen the posterior by agreement with class prototypes")
    min_class_share: Share = Field(0.3, description="a class keeps at least this share of its weak clips")

    @property
    def has_external_sources(self) -> bool:
        """Whether something other than the data may label training clips."""
        return bool(self.rules or self.models or self.trusted)

    @property
    def pseudo_label_settings(self) -> dict[str, object]:
        """What decides how pseudo-labels are estimated; where weak labels come from is in their own hash."""
        names = {"aggregate", "optimise", "method", "folds", "prototypes", "min_class_share"}
        return self.model_dump(include=names)

    @field_validator("models")
    @classmethod
    def _check_distinct_models(cls, value: tuple[ModelAnnotator, ...]) -> tuple[ModelAnnotator, ...]:
        names = [annotator.name for annotator in value]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"two models are called {twice[0]!r}; each voter needs its own name")
        return value
