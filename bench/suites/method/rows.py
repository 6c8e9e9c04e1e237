"""The rows of the method's study: the baselines, the full method, and its ideas switched on or off one by one.

The losses of the baselines come from torchdistill where it has them, so that they are not weaker than published ones.
Training loop, epochs, views, schedule and initial weights are the same in all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from skd_edge.distill.losses import register_logit_loss
from skd_edge.distill.losses.distribution import DistributionLoss, register_distribution_loss
from skd_edge.execution.job_graph import JobFactory, TrainingJob, topological_order
from skd_edge.recipe.schema import NetworkSpec

JobBuilder = Callable[[JobFactory, NetworkSpec], TrainingJob]


@dataclass(frozen=True)
class Row:
    """One row: what is trained, and which settings of the recipe differ.

    Attributes:
        name: Its name in the tables.
        build_job: Builds the job whose network is evaluated.
        sets: Changes of the recipe, as in ``--set``.
        clean: Trained on clean labels in every column (an upper bound, not a method).
        baseline: Whether the full method is compared with it as a baseline.
        stretch: Factor on the epochs of all networks.
        student: Factor on the epochs of the student only.
        teacher: Factor on the epochs of the teacher only.
        budget: What is equal in the row's table, a key of ``BUDGETS``.
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


# Title of each table, and the row that is compared with the others. The method spends four fifths of its seconds on the
# teacher and the labels, so there are two ways to train longer: all networks, or the student only.
BUDGETS = {
    "epochs": ("Equal student epochs", "full"),
    "seconds": ("About the same training seconds as full", "full"),
    "student": ("Longer training of the student only: compare rows with equal seconds", "full, student x 3"),
    "twice": ("Twice the epochs for all networks", "full, twice the epochs"),
}


def _wrap_torchdistill_loss(name: str) -> Callable[..., Tensor]:
    """Wrap a loss of torchdistill so that it has our signature; adds the factor T squared where it is missing."""

    def loss(learner: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
        from torchdistill.losses import mid_level

        student_out, teacher_out = {"s": {"output": learner}}, {"t": {"output": teacher}}
        if name == "DISTLoss":
            return torch.as_tensor(mid_level.DISTLoss("s", "output", "t", "output", tau=1.0)(student_out, teacher_out))
        module = getattr(mid_level, name)("s", "output", "t", "output", temperature=temperature, alpha=0)
        return torch.as_tensor(temperature**2 * module(student_out, teacher_out))

    return loss


for _our_name, _torchdistill_name in (("td-kd", "KDLoss"), ("td-ls", "LogitStdKDLoss"), ("td-dist", "DISTLoss")):
    register_logit_loss(_our_name, _wrap_torchdistill_loss(_torchdistill_name))


class _HintLoss(DistributionLoss):
    """FitNet's hint (arXiv 1412.6550): mean squared error of regressed pooled features."""

    def forward(self, learner: list[Tensor], teacher: list[Tensor]) -> Tensor:
        pairs = zip(self.projectors, learner, teacher, strict=False)
        return torch.stack(
            [
                F.mse_loss(regress(student_features), teacher_features)
                for regress, student_features, teacher_features in pairs
            ]
        ).mean()


register_distribution_loss("hint", _HintLoss)


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
    """The student alone, with early-learning regularisation."""
    job = job_factory.make_labels_only_job(student)
    return TrainingJob(replace(job.spec, weak=True))


def _build_soft_labels(job_factory: JobFactory, student: NetworkSpec) -> TrainingJob:
    """The student on soft labels: the outputs of the scout (a teacher with early-learning regularisation)."""
    scout = topological_order([job_factory.make_teacher_job()])[0]
    return TrainingJob(
        replace(job_factory.make_labels_only_job(student).spec, targets=job_factory.hash_targets(scout)), labels=scout
    )


def _build_cleanlab(job_factory: JobFactory, student: NetworkSpec) -> TrainingJob:
    """Confident learning on the student's out-of-fold predictions, then the student on the remaining labels."""
    alone = job_factory.make_labels_only_job(student)
    parts = job_factory.recipe.labels.folds
    folds = tuple(
        TrainingJob(replace(alone.spec, fold=(i, parts), path=(student.name, f"part {i}"))) for i in range(parts)
    )
    spec = replace(alone.spec, targets=job_factory.hash_targets(alone, folds))
    return TrainingJob(spec, labels=alone, folds=folds)


def _build_fitnet(job_factory: JobFactory, student: NetworkSpec) -> TrainingJob:
    """Train the first half of the student towards the teacher's first; then distil, with the hint still on."""
    job = job_factory.make_plain_kd_job(
        student, logits_kind="td-kd", correlation=0.0, distribution=1.0, distribution_kind="hint"
    )
    hints = job.spec.training.model_copy(update={"match": (2,), "combination": "curriculum"})
    return replace(job, spec=replace(job.spec, staged=True, training=hints))


# Training seconds of the full method divided by those of KD and of no KD. They were 1.8 to 2.1 and 5.4 to 6.7 in the
# seeds of the generated set whose rows were trained at the same time (bench/results/method.jsonl).
EQUAL, EQUAL_ALONE = 2.0, 6.0
# Factor on the student epochs of full, and for KD and no KD two factors: slightly fewer, and about as many seconds.
LONGER, LONGER_KD, LONGER_ALONE = 3, (5, 6), (7, 9)
# Epochs of full's teacher in all rounds, divided by those of its first round, which is what a baseline's teacher gets.
AS_FULL = 7 / 3

# All four ideas with logit standardisation: the default until the rows below showed that others are better.
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
    """Find a row by its name."""
    return next(r for r in ROWS if r.name == name)


# The paper's thesis: the best way of distilling depends on the structure of teacher and student. Clean labels, no
# assistant.
GAPS = {"small gap": {"resnet": 12, "mobile": 16}, "large gap": {"resnet": 4, "mobile": 6}}  # the student's width
FAMILIES = {"same family": "resnet", "other family": "mobile"}  # the teacher is a resnet
MATCHES = {1: "[4]", 2: "[2, 4]", 4: "[1, 2, 3, 4]"}  # the substages that are matched


def thesis_name(way: str, gap: str, family: str, k: int) -> str:
    """The row name of one cell of the thesis table."""
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
                    if way == "graft" and k == 1:  # there is no part of the teacher after its last substage
                        continue
                    losses = "training.losses.distribution=1"
                    sets = (*plain, losses, f"training.combination={way}", f"training.match={match}")
                    rows.append(Row(thesis_name(way, gap, name, k), _build_direct, sets, baseline=False))
    return tuple(rows)


THESIS = _make_thesis_rows()

# Equal tuning trials for the full method and the baselines. Each has one weight, that of the teacher's logits or that
# of the early-learning term; its default is multiplied by these factors. The trials use validation accuracy, on the
# seeds that all other decisions were made on. Confident learning has no weight.
LOGITS, ELR = ("logits", "training.losses.logits", 2.0), ("elr", "training.elr", 3.0)
TRIED = dict.fromkeys(("KD", "KD + LS", "DIST", "FitNet", "TAKD", "full"), LOGITS) | dict.fromkeys(
    ("ELR alone", "ELR teacher, soft labels"), ELR
)
FACTORS = (0.5, 2.0, 4.5)


def trial_name(name: str, factor: float) -> str:
    """The name of a row's trial; for the default weight (factor 1), the name of the row."""
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
