"""What a recipe may say of training: one schedule for every job, a job's losses, and what may differ by learner."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from skd_edge.recipe.base import RecipeSection, Share, exclude_when_default

LogitLoss = Literal["kd", "kd-standardised", "dist", "dkd"]
Correlation = Literal["gram", "pearson"]
Distribution = Literal["gaussian", "mmd", "pkt"]
Combination = Literal["curriculum", "graft", "none"]
Match = tuple[Annotated[int, Field(ge=1, le=6)], ...] | None
Weight = Annotated[float, Field(ge=0)]


class LossSettings(RecipeSection):
    """Weights of a job's loss terms; 0 turns a term off."""

    labels: float = Field(1.0, ge=0, description="cross-entropy on the pseudo-labels")
    logits: float = Field(2.0, ge=0, description="agreement with the teacher's logits")
    correlation: float = Field(1.0, ge=0, description="relation matrices of corresponding substages")
    distribution: float = Field(0.0, ge=0, description="distance of feature distributions of corresponding substages")
    temperature: float = Field(2.0, gt=0)
    logits_kind: LogitLoss = Field("kd", description="kd, kd-standardised (2403.01427), dist, dkd")
    correlation_kind: Correlation = "gram"
    distribution_kind: Distribution = Field(
        "gaussian", description="Gaussian 2-Wasserstein, maximum mean discrepancy, or PKT"
    )


class TrainingSettings(RecipeSection):
    """One optimiser schedule (AdamW, one cosine) for every job; epochs may differ by role."""

    teacher_epochs: int = Field(14, ge=1, le=1000)
    epochs: int = Field(12, ge=1, le=1000, description="epochs of every assistant and student, controls included")
    batch: int = Field(64, ge=2, le=4096)
    accumulate: int = Field(
        1, ge=1, le=64, description="parts of a batch that go through the network one after the other, to save memory"
    )
    rate: float = Field(3e-3, gt=0, le=1.0)
    weight_decay: float = Field(0.02, ge=0, le=1.0)
    ema: Share = Field(0.98, description="decay of the averaged weights that are evaluated and shipped")
    combination: Combination = Field(
        "none", description="how the learner's first substages are combined (method.md, idea a)"
    )
    prefix: float = Field(
        0.25, ge=0, le=0.9, description="share of a job's epochs in which only prefixes of substages learn"
    )
    match: Match = Field(
        None, description="numbers of the substages that correspond, 1 the first; default: all of them"
    )
    dense: Share = Field(
        0.0, description="dense guidance (2009.08825): chance that a step also listens to the teachers further up"
    )
    cache: Literal["float32", "float16"] = Field(
        "float32", description="how a teacher's answers are kept; float16 halves the disk and rounds by up to 1/2048"
    )
    balance: Share = Field(
        0.0,
        exclude_if=exclude_when_default(0.0),
        description="0: an epoch sees every clip once; 1: every class as often as any other; between: towards it",
    )
    rounds: int = Field(3, ge=1, le=20, description="times the labels are estimated anew and the teacher goes on")
    refine: Share = Field(0.45, description="share of teacher_epochs that the teacher goes on for in each round")
    elr: float = Field(3.0, ge=0, description="early-learning regularisation where a network learns from weak labels")
    losses: LossSettings = LossSettings()


class LossOverrides(RecipeSection):
    """Of one learner; what is null is as in ``training.losses``."""

    labels: Weight | None = None
    logits: Weight | None = None
    correlation: Weight | None = None
    distribution: Weight | None = None
    temperature: Annotated[float, Field(gt=0)] | None = None
    logits_kind: LogitLoss | None = None
    correlation_kind: Correlation | None = None
    distribution_kind: Distribution | None = None


class TrainingOverrides(RecipeSection):
    """How one learner is distilled; what is null is as in ``training``. Epochs and optimiser are everybody's."""

    combination: Combination | None = None
    match: Match = None
    prefix: Annotated[float, Field(ge=0, le=0.9)] | None = None
    dense: Share | None = None
    losses: LossOverrides = LossOverrides()

    def apply_to(self, training: TrainingSettings) -> TrainingSettings:
        """The recipe's training with what differs."""
        losses = training.losses.model_copy(update=self.losses.model_dump(exclude_none=True))
        own = self.model_dump(exclude_none=True, exclude={"losses"})
        return training.model_copy(update={**own, "losses": losses})
