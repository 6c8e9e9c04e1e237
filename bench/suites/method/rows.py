"""The rows of the method's study: every baseline, the full method, and each of its ideas switched on or off.

Baselines' losses come from torchdistill where it has them, so that they are nobody's straw men; their training loop,
epochs, views, schedule and first weights are those of every other row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

import skd_edge.distill.trainer as leg_module
from skd_edge.distill.losses import LOGIT_LOSSES
from skd_edge.distill.losses.distribution import DistributionLoss
from skd_edge.execution.job_graph import Legs, Node, in_order
from skd_edge.recipe.schema import Network

Grow = Callable[[Legs, Network], Node]


@dataclass(frozen=True)
class Row:
    """One row: what is trained, and which settings of the recipe differ.

    Attributes:
        name: as the table prints it.
        grow: the node whose network is scored.
        sets: ``--set`` changes of the recipe.
        clean: trained on the clean labels whatever the column (an upper bound, not a method).
        baseline: the full method must beat it.
        stretch: how many times as many epochs everybody gets.
        student: how many times as many epochs the student alone gets.
        teacher: how many times as many epochs the teacher alone gets.
        budget: what the row's table holds equal, a key of ``BUDGETS``.
    """

    name: str
    grow: Grow
    sets: tuple[str, ...] = ()
    clean: bool = False
    baseline: bool = True
    stretch: float = 1.0
    student: float = 1.0
    teacher: float = 1.0
    budget: str = "epochs"


# What a table holds equal, and the row that leads it. The method spends four fifths of its seconds on the teacher and
# the labels, so that there are two ways to spend more: on everybody, or on the student alone.
BUDGETS = {
    "epochs": ("Equal student epochs", "full"),
    "seconds": ("About equal training seconds, as many as full has", "full"),
    "student": ("Longer training of the student alone: compare rows of equal seconds", "full, student x 3"),
    "twice": ("Twice everybody's epochs", "full, twice the epochs"),
}


def _torchdistill(name: str) -> Callable[..., Tensor]:
    """A loss of torchdistill as one of ours, with T squared where its module leaves it to the caller."""

    def loss(learner: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
        from torchdistill.losses import mid_level

        said, taught = {"s": {"output": learner}}, {"t": {"output": teacher}}
        if name == "DISTLoss":
            return torch.as_tensor(mid_level.DISTLoss("s", "output", "t", "output", tau=1.0)(said, taught))
        module = getattr(mid_level, name)("s", "output", "t", "output", temperature=temperature, alpha=0)
        return torch.as_tensor(temperature**2 * module(said, taught))

    return loss


for _ours, _theirs in (("td-kd", "KDLoss"), ("td-ls", "LogitStdKDLoss"), ("td-dist", "DISTLoss")):
    LOGIT_LOSSES[_ours] = _torchdistill(_theirs)


class _Distribution(DistributionLoss):
    """Ours, and FitNet's hint (1412.6550) as one more kind: mean squared error of regressed pooled features."""

    def forward(self, learner: list[Tensor], teacher: list[Tensor]) -> Tensor:
        if self.kind != "hint":
            return super().forward(learner, teacher)
        pairs = zip(self.project, learner, teacher, strict=False)
        return torch.stack([F.mse_loss(regress(ours), theirs) for regress, ours, theirs in pairs]).mean()


leg_module.DistributionLoss = _Distribution  # type: ignore[misc]  # a kind that only this study has


def _kd(kind: str, path: bool = False, **losses: float) -> Grow:
    return lambda legs, student: legs.plain_kd(student, _assistants(legs) if path else (), logits_kind=kind, **losses)


def _cascade(legs: Legs, student: Network) -> Node:
    return legs.cascade(student, _assistants(legs))


def _direct(legs: Legs, student: Network) -> Node:
    return legs.cascade(student, ())


def _assistants(legs: Legs) -> tuple[str, ...]:
    return tuple(a.name for a in legs.recipe.assistants)


def _elr(legs: Legs, student: Network) -> Node:
    """Early-learning regularisation on the student alone."""
    node = legs.alone(student)
    return Node(replace(node.leg, weak=True))


def _soft(legs: Legs, student: Network) -> Node:
    """What the scout (a teacher under early-learning regularisation) remembers of each clip, as soft labels."""
    scout = in_order([legs.teacher()])[0]
    return Node(replace(legs.alone(student).leg, targets=legs.targets(scout)), labels=scout)


def _cleanlab(legs: Legs, student: Network) -> Node:
    """Confident learning on the student's own out-of-fold opinions, then the student on what it left."""
    alone = legs.alone(student)
    parts = legs.recipe.labels.folds
    folds = tuple(Node(replace(alone.leg, fold=(i, parts), path=(student.name, f"part {i}"))) for i in range(parts))
    leg = replace(alone.leg, targets=legs.targets(alone, folds))
    return Node(leg, labels=alone, folds=folds)


def _fitnet(legs: Legs, student: Network) -> Node:
    """The first half of the student regresses to the teacher's first; then plain distillation, the hint kept on."""
    node = legs.plain_kd(student, logits_kind="td-kd", correlation=0.0, distribution=1.0, distribution_kind="hint")
    hints = node.leg.training.model_copy(update={"match": (2,), "combination": "curriculum"})
    return replace(node, leg=replace(node.leg, staged=True, training=hints))


# Training seconds of the full method over plain KD's and over no KD's: 1.8 to 2.1 and 5.4 to 6.7 times in those seeds
# of the generated set whose rows were trained side by side (bench/results/method.jsonl).
EQUAL, EQUAL_ALONE = 2.0, 6.0
# How many times the student epochs full gets, and with how many times the others need less and about as many seconds.
LONGER, LONGER_KD, LONGER_ALONE = 3, (5, 6), (7, 9)
# The epochs of full's teacher, all rounds together, over its first round's, which is all that a baseline's teacher has.
AS_FULL = 7 / 3

# The four ideas together, with logit standardisation: the default until the rows below said otherwise.
_ALL = (
    "training.combination=curriculum", "training.losses.distribution=1", "training.losses.logits_kind=kd-standardised",
)  # fmt: skip

ROWS = (
    Row("no KD", lambda legs, s: legs.alone(s)),
    Row("no KD, clean labels", lambda legs, s: legs.alone(s), clean=True, baseline=False),
    Row("teacher", lambda legs, s: legs.plain_teacher(), baseline=False),
    Row("teacher, clean labels", lambda legs, s: legs.plain_teacher(), clean=True, baseline=False),
    Row("KD", _kd("td-kd")),
    Row("KD + LS", _kd("td-ls")),
    Row("DIST", _kd("td-dist")),
    Row("FitNet", _fitnet),
    Row("TAKD", _kd("td-kd", path=True)),
    Row("ELR alone", _elr),
    Row("ELR teacher, soft labels", _soft, ("labels.method=soft", "labels.min_class_share=0")),
    Row("KD, teacher x 2.3", _kd("td-kd"), teacher=AS_FULL),
    Row("ELR teacher x 2.3, soft labels", _soft, ("labels.method=soft", "labels.min_class_share=0"), teacher=AS_FULL),
    Row("cleanlab alone", _cleanlab, ("labels.method=confident", "labels.folds=3")),
    Row("no KD, equal seconds", lambda legs, s: legs.alone(s), stretch=EQUAL_ALONE, budget="seconds"),
    Row("KD, equal seconds", _kd("td-kd"), stretch=EQUAL, budget="seconds"),
    Row("KD + LS, equal seconds", _kd("td-ls"), stretch=EQUAL, budget="seconds"),
    *(Row(f"no KD, student x {n}", lambda legs, s: legs.alone(s), student=n, budget="student") for n in LONGER_ALONE),
    *(Row(f"KD, student x {n}", _kd("td-kd"), student=n, budget="student") for n in LONGER_KD),
    Row(f"full, student x {LONGER}", _direct, baseline=False, student=LONGER, budget="student"),
    Row("full", _direct, baseline=False),
    Row("full, twice the epochs", _direct, baseline=False, stretch=2.0, budget="twice"),
    Row("full - (a) correlation", _direct, ("training.losses.correlation=0",), baseline=False),
    Row("full + (a) curriculum", _direct, ("training.combination=curriculum",), baseline=False),
    Row("full + (a) graft", _direct, ("training.combination=graft",), baseline=False),
    Row("full + (b) assistant", _cascade, baseline=False),
    Row("full - (c) pseudo-labels", _direct, ("labels.optimise=false",), baseline=False),
    Row("full + (d) distribution", _direct, ("training.losses.distribution=1",), baseline=False),
    Row("full + LS", _direct, ("training.losses.logits_kind=kd-standardised",), baseline=False),
    Row("all four ideas", _cascade, _ALL, baseline=False),
    Row("all four ideas, direct", _direct, _ALL, baseline=False),
)


def row(name: str) -> Row:
    """The row of this name."""
    return next(r for r in ROWS if r.name == name)


# The paper's thesis: the best way of distilling depends on the structure of teacher and student. Clean labels, direct.
GAPS = {"small gap": {"resnet": 12, "mobile": 16}, "large gap": {"resnet": 4, "mobile": 6}}  # the student's width
FAMILIES = {"same family": "resnet", "other family": "mobile"}  # the teacher is a resnet
MATCHES = {1: "[4]", 2: "[2, 4]", 4: "[1, 2, 3, 4]"}  # the substages that correspond


def thesis_name(how: str, gap: str, family: str, k: int) -> str:
    """The name of one cell."""
    return f"{how}, {gap}, {family}" + (f", K = {k}" if k else "")


def _thesis() -> tuple[Row, ...]:
    rows = []
    for gap, widths in GAPS.items():
        for name, family in FAMILIES.items():
            student = f"students=[{{name: small, family: {family}, width: {widths[family]}}}]"
            plain = (student, "labels.optimise=false")
            rows.append(Row(thesis_name("KD", gap, name, 0), _kd("kd"), plain, baseline=False))
            rows.append(Row(thesis_name("whole", gap, name, 0), _direct, plain, baseline=False))
            for how in ("curriculum", "graft"):
                for k, match in MATCHES.items():
                    if how == "graft" and k == 1:  # nothing of the teacher lies behind its last substage
                        continue
                    losses = "training.losses.distribution=1"
                    sets = (*plain, losses, f"training.combination={how}", f"training.match={match}")
                    rows.append(Row(thesis_name(how, gap, name, k), _direct, sets, baseline=False))
    return tuple(rows)


THESIS = _thesis()

# Equal tuning trials for the full method and the baselines: the one weight that each has, the teacher's logits' or the
# early-learning term's, by these factors of its default. On the seeds that everything else was decided on, by
# validation accuracy. Confident learning has no weight.
LOGITS, ELR = ("logits", "training.losses.logits", 2.0), ("elr", "training.elr", 3.0)
TRIED = dict.fromkeys(("KD", "KD + LS", "DIST", "FitNet", "TAKD", "full"), LOGITS) | dict.fromkeys(
    ("ELR alone", "ELR teacher, soft labels"), ELR
)
FACTORS = (0.5, 2.0, 4.5)


def trial_name(name: str, factor: float) -> str:
    """The name of a row's trial; of the row itself at its default."""
    word, _, default = TRIED[name]
    return name if factor == 1 else f"{name}, {word} {factor * default:g}"


TRIALS = tuple(
    replace(
        row(name), name=trial_name(name, factor), sets=(*row(name).sets, f"{key}={factor * default:g}"), baseline=False
    )
    for name, (_, key, default) in TRIED.items()
    for factor in FACTORS
)
