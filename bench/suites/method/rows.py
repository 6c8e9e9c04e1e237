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

import skd_edge.distill.trainer as trainer_module
from skd_edge.distill.losses import LOGIT_LOSSES
from skd_edge.distill.losses.distribution import DistributionLoss
from skd_edge.execution.job_graph import JobFactory, TrainingJob, topological_order
from skd_edge.recipe.schema import NetworkSpec

JobBuilder = Callable[[JobFactory, NetworkSpec], TrainingJob]


@dataclass(frozen=True)
class Row:
    """One row: what is trained, and which settings of the recipe differ.

    Attributes:
        name: as the table prints it.
        build_job: the node whose network is scored.
        sets: ``--set`` changes of the recipe.
        clean: trained on the clean labels whatever the column (an upper bound, not a method).
        baseline: the full method must beat it.
        stretch: how many times as many epochs everybody gets.
        student: how many times as many epochs the student alone gets.
        teacher: how many times as many epochs the teacher alone gets.
        budget: what the row's table holds equal, a key of ``BUDGETS``.
    """

    name: str
    build_job: JobBuilder
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


def _wrap_torchdistill_loss(name: str) -> Callable[..., Tensor]:
    """A loss of torchdistill as one of ours, with T squared where its module leaves it to the caller."""

    def loss(learner: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
        from torchdistill.losses import mid_level

        student_out, teacher_out = {"s": {"output": learner}}, {"t": {"output": teacher}}
        if name == "DISTLoss":
            return torch.as_tensor(mid_level.DISTLoss("s", "output", "t", "output", tau=1.0)(student_out, teacher_out))
        module = getattr(mid_level, name)("s", "output", "t", "output", temperature=temperature, alpha=0)
        return torch.as_tensor(temperature**2 * module(student_out, teacher_out))

    return loss


for _our_name, _torchdistill_name in (("td-kd", "KDLoss"), ("td-ls", "LogitStdKDLoss"), ("td-dist", "DISTLoss")):
    LOGIT_LOSSES[_our_name] = _wrap_torchdistill_loss(_torchdistill_name)


class _DistributionOrHintLoss(DistributionLoss):
    """Ours, and FitNet's hint (1412.6550) as one more kind: mean squared error of regressed pooled features."""

    def forward(self, learner: list[Tensor], teacher: list[Tensor]) -> Tensor:
        if self.kind != "hint":
            return super().forward(learner, teacher)
        pairs = zip(self.projectors, learner, teacher, strict=False)
        return torch.stack(
            [
                F.mse_loss(regress(student_features), teacher_features)
                for regress, student_features, teacher_features in pairs
            ]
        ).mean()


trainer_module.DistributionLoss = _DistributionOrHintLoss  # type: ignore[misc]  # a kind that only this study has


def _make_kd_builder(kind: str, path: bool = False, **losses: float) -> JobBuilder:
    return lambda job_factory, student: job_factory.make_plain_kd_job(
        student, _assistant_names(job_factory) if path else (), logits_kind=kind, **losses
    )


def _build_cascade(job_factory: JobFactory, student: NetworkSpec) -> TrainingJob:
    return job_factory.make_cascade_job(student, _assistant_names(job_factory))


def _build_direct(job_factory: JobFactory, student: NetworkSpec) -> TrainingJob:
    return job_factory.make_cascade_job(student, ())


def _assistant_names(job_factory: JobFactory) -> tuple[str, ...]:
    return tuple(a.name for a in job_factory.recipe.assistants)


def _build_elr(job_factory: JobFactory, student: NetworkSpec) -> TrainingJob:
    """Early-learning regularisation on the student alone."""
    job = job_factory.make_labels_only_job(student)
    return TrainingJob(replace(job.spec, weak=True))


def _build_soft_labels(job_factory: JobFactory, student: NetworkSpec) -> TrainingJob:
    """What the scout (a teacher under early-learning regularisation) remembers of each clip, as soft labels."""
    scout = topological_order([job_factory.make_teacher_job()])[0]
    return TrainingJob(
        replace(job_factory.make_labels_only_job(student).spec, targets=job_factory.hash_targets(scout)), labels=scout
    )


def _build_cleanlab(job_factory: JobFactory, student: NetworkSpec) -> TrainingJob:
    """Confident learning on the student's own out-of-fold opinions, then the student on what it left."""
    alone = job_factory.make_labels_only_job(student)
    parts = job_factory.recipe.labels.folds
    folds = tuple(
        TrainingJob(replace(alone.spec, fold=(i, parts), path=(student.name, f"part {i}"))) for i in range(parts)
    )
    spec = replace(alone.spec, targets=job_factory.hash_targets(alone, folds))
    return TrainingJob(spec, labels=alone, folds=folds)


def _build_fitnet(job_factory: JobFactory, student: NetworkSpec) -> TrainingJob:
    """The first half of the student regresses to the teacher's first; then plain distillation, the hint kept on."""
    job = job_factory.make_plain_kd_job(
        student, logits_kind="td-kd", correlation=0.0, distribution=1.0, distribution_kind="hint"
    )
    hints = job.spec.training.model_copy(update={"match": (2,), "combination": "curriculum"})
    return replace(job, spec=replace(job.spec, staged=True, training=hints))


# Training seconds of the full method over plain KD's and over no KD's: 1.8 to 2.1 and 5.4 to 6.7 times in those seeds
# of the generated set whose rows were trained side by side (bench/results/method.jsonl).
EQUAL, EQUAL_ALONE = 2.0, 6.0
# How many times the student epochs full gets, and with how many times the others need less and about as many seconds.
LONGER, LONGER_KD, LONGER_ALONE = 3, (5, 6), (7, 9)
# The epochs of full's teacher, all rounds together, over its first round's, which is all that a baseline's teacher has.
AS_FULL = 7 / 3

# The four ideas together, with logit standardisation: the default until the rows below said otherwise.
_ALL_IDEAS = (
    "training.combination=curriculum",
    "training.losses.distribution=1",
    "training.losses.logits_kind=kd-standardised",
)

ROWS = (
    Row("no KD", lambda jobs, s: jobs.make_labels_only_job(s)),
    Row("no KD, clean labels", lambda jobs, s: jobs.make_labels_only_job(s), clean=True, baseline=False),
    Row("teacher", lambda jobs, s: jobs.make_plain_teacher_job(), baseline=False),
    Row("teacher, clean labels", lambda jobs, s: jobs.make_plain_teacher_job(), clean=True, baseline=False),
    Row("KD", _make_kd_builder("td-kd")),
    Row("KD + LS", _make_kd_builder("td-ls")),
    Row("DIST", _make_kd_builder("td-dist")),
    Row("FitNet", _build_fitnet),
    Row("TAKD", _make_kd_builder("td-kd", path=True)),
    Row("ELR alone", _build_elr),
    Row("ELR teacher, soft labels", _build_soft_labels, ("labels.method=soft", "labels.min_class_share=0")),
    Row("KD, teacher x 2.3", _make_kd_builder("td-kd"), teacher=AS_FULL),
    Row(
        "ELR teacher x 2.3, soft labels",
        _build_soft_labels,
        ("labels.method=soft", "labels.min_class_share=0"),
        teacher=AS_FULL,
    ),
    Row("cleanlab alone", _build_cleanlab, ("labels.method=confident", "labels.folds=3")),
    Row("no KD, equal seconds", lambda jobs, s: jobs.make_labels_only_job(s), stretch=EQUAL_ALONE, budget="seconds"),
    Row("KD, equal seconds", _make_kd_builder("td-kd"), stretch=EQUAL, budget="seconds"),
    Row("KD + LS, equal seconds", _make_kd_builder("td-ls"), stretch=EQUAL, budget="seconds"),
    *(
        Row(f"no KD, student x {n}", lambda jobs, s: jobs.make_labels_only_job(s), student=n, budget="student")
        for n in LONGER_ALONE
    ),
    *(Row(f"KD, student x {n}", _make_kd_builder("td-kd"), student=n, budget="student") for n in LONGER_KD),
    Row(f"full, student x {LONGER}", _build_direct, baseline=False, student=LONGER, budget="student"),
    Row("full", _build_direct, baseline=False),
    Row("full, twice the epochs", _build_direct, baseline=False, stretch=2.0, budget="twice"),
    Row("full - (a) correlation", _build_direct, ("training.losses.correlation=0",), baseline=False),
    Row("full + (a) curriculum", _build_direct, ("training.combination=curriculum",), baseline=False),
    Row("full + (a) graft", _build_direct, ("training.combination=graft",), baseline=False),
    Row("full + (b) assistant", _build_cascade, baseline=False),
    Row("full - (c) pseudo-labels", _build_direct, ("labels.optimise=false",), baseline=False),
    Row("full + (d) distribution", _build_direct, ("training.losses.distribution=1",), baseline=False),
    Row("full + LS", _build_direct, ("training.losses.logits_kind=kd-standardised",), baseline=False),
    Row("all four ideas", _build_cascade, _ALL_IDEAS, baseline=False),
    Row("all four ideas, direct", _build_direct, _ALL_IDEAS, baseline=False),
)


def find_row(name: str) -> Row:
    """The row of this name."""
    return next(r for r in ROWS if r.name == name)


# The paper's thesis: the best way of distilling depends on the structure of teacher and student. Clean labels, direct.
GAPS = {"small gap": {"resnet": 12, "mobile": 16}, "large gap": {"resnet": 4, "mobile": 6}}  # the student's width
FAMILIES = {"same family": "resnet", "other family": "mobile"}  # the teacher is a resnet
MATCHES = {1: "[4]", 2: "[2, 4]", 4: "[1, 2, 3, 4]"}  # the substages that correspond


def thesis_name(way: str, gap: str, family: str, k: int) -> str:
    """The name of one cell."""
    return f"{way}, {gap}, {family}" + (f", K = {k}" if k else "")


def _make_thesis_rows() -> tuple[Row, ...]:
    rows = []
    for gap, widths in GAPS.items():
        for name, family in FAMILIES.items():
            student = f"students=[{{name: small, family: {family}, width: {widths[family]}}}]"
            plain = (student, "labels.optimise=false")
            rows.append(Row(thesis_name("KD", gap, name, 0), _make_kd_builder("kd"), plain, baseline=False))
            rows.append(Row(thesis_name("whole", gap, name, 0), _build_direct, plain, baseline=False))
            for way in ("curriculum", "graft"):
                for k, match in MATCHES.items():
                    if way == "graft" and k == 1:  # nothing of the teacher lies behind its last substage
                        continue
                    losses = "training.losses.distribution=1"
                    sets = (*plain, losses, f"training.combination={way}", f"training.match={match}")
                    rows.append(Row(thesis_name(way, gap, name, k), _build_direct, sets, baseline=False))
    return tuple(rows)


THESIS = _make_thesis_rows()

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
        find_row(name),
        name=trial_name(name, factor),
        sets=(*find_row(name).sets, f"{key}={factor * default:g}"),
        baseline=False,
    )
    for name, (_, key, default) in TRIED.items()
    for factor in FACTORS
)
