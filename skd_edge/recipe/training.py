"""The section ``training`` of a recipe: one schedule for all jobs, the losses, and what may differ by learner."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from skd_edge.recipe.base import RecipeSection, Share, exclude_when_default

LogitLoss = Literal["kd", "kd-standardised", "dist", "dkd"]
Correlation = Literal["gram", "pearson"]
Distribution = Literal["gaussian", "mmd", "pkt"]
Combination = Literal["curriculum", "graft", "none"]
WeightRule = Literal["best", "smoothed", "averaged"]
Match = tuple[Annotated[int, Field(ge=1, le=6)], ...] | None
Weight = Annotated[float, Field(ge=0)]


class LossSettings(RecipeSection):
    """Weights of a job's loss terms; 0 disables a term."""

    labels: float = Field(1.0, ge=0, description="cross-entropy on the pseudo-labels")
    logits: float = Field(2.0, ge=0, description="difference from the teacher's logits")
    correlation: float = Field(
        1.0, ge=0, description="difference between the relation matrices of corresponding substages"
    )
    distribution: float = Field(
        0.0, ge=0, description="distance between the feature distributions of corresponding substages"
    )
    temperature: float = Field(2.0, gt=0)
    logits_kind: LogitLoss = Field("kd", description="kd, kd-standardised (arXiv 2403.01427), dist, dkd")
    correlation_kind: Correlation = "gram"
    distribution_kind: Distribution = Field(
        "gaussian", description="gaussian: Gaussian 2-Wasserstein; mmd: maximum mean discrepancy; pkt: PKT"
    )


class TrainingSettings(RecipeSection):
    """One optimiser and schedule (AdamW, one cosine) for every job; the number of epochs depends on the role."""

    teacher_epochs: int = Field(14, ge=1, le=1000)
    epochs: int = Field(12, ge=1, le=1000, description="epochs of every assistant and student, including controls")
    batch: int = Field(64, ge=2, le=4096)
    accumulate: int = Field(
        1, ge=1, le=64, description="parts of a batch that are run one after the other, to save memory"
    )
    threads: int = Field(
        1,
        ge=1,
        le=1024,
        description="threads that train one job on the CPU; weights depend on it, because floats are added in another "
        "order",
    )
    rate: float = Field(3e-3, gt=0, le=1.0)
    weight_decay: float = Field(0.02, ge=0, le=1.0)
    ema: Share = Field(
        0.98, description="decay of the moving average of the weights; the averaged weights are evaluated and shipped"
    )
    select: WeightRule = Field(
        "best",
        exclude_if=exclude_when_default("best"),
        description="weights that are the result of a job: best validates best of all epochs; smoothed validates best "
        "by a moving mean over epochs; averaged is the mean of the last quarter of the epochs, without validation",
    )
    combination: Combination = Field(
        "none",
        description="how the first substages are trained before the whole network (method.md, idea a)",
    )
    prefix: float = Field(
        0.25, ge=0, le=0.9, description="share of a job's epochs that trains only the first substages"
    )
    match: Match = Field(
        None, description="numbers of the substages that are compared with the teacher's, from 1; default: all of them"
    )
    dense: Share = Field(
        0.0,
        description="dense guidance (arXiv 2009.08825): probability that a step also uses the earlier teachers of the "
        "cascade",
    )
    cache: Literal["float32", "float16"] = Field(
        "float32",
        description="number format of stored teacher outputs; float16 needs half the disk space and has a relative "
        "rounding error of up to 1/2048",
    )
    balance: Share = Field(
        0.0,
        exclude_if=exclude_when_default(0.0),
        description="0: an epoch uses every clip once; 1: it uses every class equally often; values between are a mix",
    )
    rounds: int = Field(
        3, ge=1, le=20, description="how many times the labels are estimated again and the teacher is trained further"
    )
    refine: Share = Field(
        0.45, description="length of the teacher's training in each round, as a share of teacher_epochs"
    )
    elr: float = Field(
        3.0, ge=0, description="weight of early-learning regularisation, used when a network is trained on weak labels"
    )
    losses: LossSettings = LossSettings()


class LossOverrides(RecipeSection):
    """Loss settings of one learner; null means the value of ``training.losses``."""

    labels: Weight | None = None
    logits: Weight | None = None
    correlation: Weight | None = None
    distribution: Weight | None = None
    temperature: Annotated[float, Field(gt=0)] | None = None
    logits_kind: LogitLoss | None = None
    correlation_kind: Correlation | None = None
    distribution_kind: Distribution | None = None


class TrainingOverrides(RecipeSection):
    """How one learner is distilled; null means the value of ``training``. All learners share epochs and optimiser."""

    combination: Combination | None = None
    match: Match = None
    prefix: Annotated[float, Field(ge=0, le=0.9)] | None = None
    dense: Share | None = None
    losses: LossOverrides = LossOverrides()

    def apply_to(self, training: TrainingSettings) -> TrainingSettings:
        """Return the recipe's ``training`` with these settings applied."""
        losses = training.losses.model_copy(update=self.losses.model_dump(exclude_none=True))
        own = self.model_dump(exclude_none=True, exclude={"losses"})
        return training.model_copy(update={**own, "losses": losses})
