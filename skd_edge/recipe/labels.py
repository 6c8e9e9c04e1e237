"""The section ``labels`` of a recipe: simulated noise, rules and models that vote, and how labels are corrected."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from skd_edge.recipe.base import ClassName, Name, RecipeSection, Share, exclude_when_default


class NoiseSettings(RecipeSection):
    """Simulated label noise, for studies; labels of validation and test clips are not changed."""

    kind: Literal["none", "symmetric", "classes", "voters", "model", "keyword-rules"] = Field(
        "none",
        description="symmetric: a random other class; classes: always the next class; voters: simulated annotators, "
        "whose votes are aggregated; model: the answers of a weak model; keyword-rules: keywords in made-up titles",
    )
    rate: Share = Field(
        0.0,
        description="share of wrong training labels; kind: voters: share of wrong votes of the average voter; kind: "
        "model: as nearly as the number of clips that the model is fitted on allows",
    )
    voters: int = Field(
        5, ge=1, le=100, description="number of annotators (kind: voters); their quality differs widely"
    )
    abstain: Share | None = Field(
        None,
        description="share of the clips that an annotator, the model or the rules do not label; default: 0.2 for "
        "voters, 0.1 for keyword-rules, 0 for model",
    )
    held_out: Share = Field(
        0.15,
        description="kind: model: share of the training clips of each class that the weak model may be fitted on; "
        "drawn by the seed before anything else, they are in no split",
    )
    temperature: float = Field(
        0.0,
        ge=0,
        le=10,
        description="kind: model: 0: it answers its most probable class; above: a class drawn from its probabilities "
        "at this temperature",
    )
    conflicts: Share = Field(
        0.2, description="kind: keyword-rules: share of the labelled clips whose title has keywords of two classes"
    )

    @property
    def abstain_share(self) -> float:
        """Share of the clips that the simulated source does not label, in [0, 1]."""
        return {"voters": 0.2, "keyword-rules": 0.1}.get(self.kind, 0.0) if self.abstain is None else self.abstain

    @model_validator(mode="after")
    def _check_model_has_clips(self) -> NoiseSettings:
        if self.kind == "model" and not 0 < self.held_out < 1:
            raise ValueError(
                f"labels.noise.held_out is {self.held_out:g}, but the weak model needs clips to be fitted on, and "
                "training needs clips too; give a share between 0 and 1"
            )
        return self


class KeywordRule(RecipeSection):
    """A vote for a class, for training clips whose texts contain certain words.

    A keyword is a word or a phrase of whole words, in upper or lower case; ``wav*`` is any word that starts with wav.
    Regular expressions are not supported, so that the time of matching is proportional to the length of the text.
    """

    label: ClassName = Field(min_length=1, description="the class that is voted for")
    any: tuple[str, ...] = Field((), description="at least one of these keywords must occur")
    all: tuple[str, ...] = Field((), description="each of these keywords must occur")
    none: tuple[str, ...] = Field((), description="none of these keywords may occur")
    within: tuple[str, ...] = Field(
        ("file",),
        min_length=1,
        description="texts to search: file (the file's name), path (its folders too), or columns of labels.metadata "
        "(default: of the dataset's own table)",
    )
    weight: float = Field(
        1.0, gt=0, le=1e6, description="if rules of one voter disagree, the class with the larger sum of weights wins"
    )
    voter: Name = Field("rules", description="rules with the same name form one voter")

    @model_validator(mode="after")
    def _check_keywords(self) -> KeywordRule:
        if not self.any and not self.all:
            raise ValueError("a rule needs keywords: give any, all, or both")
        if empty := [k for k in (*self.any, *self.all, *self.none) if not has_word_character(k)]:
            raise ValueError(f"the keyword {empty[0]!r} contains no letter or digit; give a word")
        return self


def has_word_character(keyword: str) -> bool:
    """Whether a keyword contains a letter or digit, so that it can be searched."""
    return any(c.isalnum() for c in keyword)


class ModelAnnotator(RecipeSection):
    """An existing model whose predictions are votes: a table of probabilities, a bundle, or an ONNX file."""

    name: Name
    table: Path | None = Field(
        None, description="CSV with a column 'clip' and one column of probabilities for each class name"
    )
    bundle: Path | None = Field(None, description="folder of a bundle, which is run on the training clips")
    onnx: Path | None = Field(
        None, description="ONNX file that maps clips, prepared as in the section `clip`, to logits (B, classes)"
    )
    classes: tuple[ClassName, ...] = Field((), description="onnx: its classes, in order; default: those of the dataset")
    at_least: Share = Field(0.0, description="no vote for a clip if the highest probability is lower")

    @model_validator(mode="after")
    def _check_single_source(self) -> ModelAnnotator:
        if sum(x is not None for x in (self.table, self.bundle, self.onnx)) != 1:
            raise ValueError(f"the model {self.name!r} needs exactly one of table, bundle and onnx; give one of them")
        if self.classes and self.onnx is None:
            raise ValueError(
                "classes is for onnx only, because a table and a bundle contain their class names; remove classes"
            )
        return self


class LabelSettings(RecipeSection):
    """How pseudo-labels are estimated from weak labels (method.md, idea c)."""

    noise: NoiseSettings = NoiseSettings()
    rules: tuple[KeywordRule, ...] = Field(
        (), description="keyword rules; with them, the dataset's own label becomes one vote among others"
    )
    models: tuple[ModelAnnotator, ...] = Field((), description="existing models that vote as well")
    metadata: Path | None = Field(
        None, description="CSV with a column 'clip' and the texts for the rules; default: the dataset's own table"
    )
    trusted: Path | None = Field(
        None,
        description="CSV with columns clip, trusted (an edited audit.csv): checked labels of training clips, which are "
        "not changed; the weak labels of these clips stay beside them",
    )
    trusted_per_class: int = Field(
        0,
        ge=0,
        le=10_000,
        exclude_if=exclude_when_default(0),
        description="for studies with labels.noise: so many training clips of each class, drawn by the seed, have "
        "their listed label as checked label",
    )
    prior: dict[ClassName, Annotated[float, Field(ge=0)]] = Field(
        {}, description="share of each class, if it is known, for dawid-skene; default: estimated from the votes"
    )
    aggregate: Literal["dawid-skene", "majority"] = Field(
        "dawid-skene",
        description="how several votes become one label: weighted by each annotator's quality, or by majority",
    )
    optimise: bool = Field(True, description="estimate pseudo-labels; false: train on the weak labels as they are")
    method: Literal["neighbours", "mixture", "confident", "soft"] = Field(
        "neighbours",
        description="how wrong labels are found: neighbours: Bayes' rule with the labels of similar clips as evidence; "
        "mixture: a two-component mixture of the losses; confident: confident learning (cleanlab); soft: all labels "
        "are treated as uncertain",
    )
    folds: int = Field(
        0,
        ge=0,
        le=10,
        description="in the first round, use out-of-fold predictions of this many networks; 0: use the running average "
        "of predictions that ELR stores",
    )
    prototypes: bool = Field(True, description="mixture: sharpen the posterior by similarity to class prototypes")
    min_class_share: Share = Field(
        0.3, description="a class keeps at least this share of the clips with its weak label"
    )

    @property
    def has_external_sources(self) -> bool:
        """Whether rules, models or checked labels may label training clips, besides the dataset."""
        return bool(self.rules or self.models or self.trusted)

    @property
    def pseudo_label_settings(self) -> dict[str, object]:
        """The settings that decide how pseudo-labels are estimated; they are part of a job's hash.

        The sources of weak labels are not included, because the labels have their own hash.
        """
        names = {"aggregate", "optimise", "method", "folds", "prototypes", "min_class_share"}
        return self.model_dump(include=names)

    @field_validator("models")
    @classmethod
    def _check_distinct_models(cls, value: tuple[ModelAnnotator, ...]) -> tuple[ModelAnnotator, ...]:
        names = [annotator.name for annotator in value]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"two models have the name {twice[0]!r}; give each model its own name")
        return value
