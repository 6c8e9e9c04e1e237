"""Rows of the study with a few checked clips: what people have is labels of a weak model or of rules.

Every row has the same student, epochs, views, schedule and initial weights, and sees the same checked clips. Rows of
``baselines/`` never see a true label that nobody checked. Each has one setting of its own that tuning trials multiply
by the same factors; the factor that is best on validation clips is used in all other cells (`choose_factor`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from bench.suites.method.baselines.cft import distil_cft, train_cft
from bench.suites.method.baselines.dividemix import train_dividemix
from bench.suites.method.baselines.fixmatch import train_fixmatch
from bench.suites.method.baselines.glc import train_glc
from bench.suites.method.baselines.simple import (
    distil_plainly,
    train_on_checked_clips,
    train_on_given_labels,
    train_on_weak_labels,
    train_with_the_method,
)
from bench.suites.method.baselines.study import Outcome, Study
from bench.suites.method.baselines.three_lines import (
    distil_three_lines,
    train_method_on_three_lines,
    train_on_three_lines,
)
from bench.suites.method.rows import EQUAL, EQUAL_ALONE, FACTORS
from skd_bench.errors import UserError

_RATE = "training.rate"
_LOGITS = "training.losses.logits"
_EQUAL_SECONDS = ", equal seconds"  # ends the name of a row with more epochs


@dataclass(frozen=True)
class GroundRow:
    """One row.

    Attributes:
        name: its name in the tables.
        train: trains it.
        student_steps: cost in trainings of the student for one epoch budget, for the plan.
        teacher_steps: cost in trainings of the teacher, likewise.
        clean: trained on true labels (an upper bound, not a method).
        checked: whether it needs checked clips.
        stretch: factor on the epochs of all networks.
        setting: the setting of the recipe that trials multiply; empty: the row's own weight.
        factor: what a trial multiplies it by.
    """

    name: str
    train: Callable[[Study], Outcome]
    student_steps: float
    teacher_steps: float = 0.0
    clean: bool = False
    checked: bool = True
    stretch: float = 1.0
    setting: str = ""
    factor: float = 1.0


# student_steps and teacher_steps: trainings of the row, with teacher outputs and pseudo-labels as parts of a training.
GROUND_ROWS = (
    GroundRow("weak only", train_on_weak_labels, 1, checked=False, setting=_RATE),
    GroundRow("clean labels", train_on_given_labels, 1, clean=True, checked=False),
    GroundRow("trusted only", train_on_checked_clips, 1, setting=_RATE),
    GroundRow("CFT", train_cft, 1),
    GroundRow("CFT, then KD", distil_cft, 1.3, 1.3),
    GroundRow("GLC", train_glc, 2.1),
    GroundRow("three lines", train_on_three_lines, 1, 1.1),
    GroundRow("three lines, then KD", distil_three_lines, 1.3, 2.4),
    GroundRow("three lines, then the method", train_method_on_three_lines, 1.5, 3.8, setting=_LOGITS),
    GroundRow("FixMatch", train_fixmatch, 2.6),
    GroundRow("DivideMix", train_dividemix, 9.0),
    GroundRow("KD", distil_plainly, 1.3, 1.3, checked=False, setting=_LOGITS),
    GroundRow("the method", train_with_the_method, 1.5, 2.7, checked=False, setting=_LOGITS),
)


def find_ground_row(name: str) -> GroundRow:
    """Find a row by its name, also one of `TRIALS` or `LEADERS`."""
    return next(row for row in (*GROUND_ROWS, *LEADERS, *TRIALS) if row.name == name)


# The rows that may lead, with about the seconds of the method.
LEADERS = tuple(
    replace(row, name=row.name + _EQUAL_SECONDS, stretch=stretch)
    for name, stretch in (("CFT", EQUAL_ALONE), ("CFT, then KD", EQUAL), ("KD", EQUAL), ("three lines, then KD", 1.25))
    for row in GROUND_ROWS
    if row.name == name
)

# Equal tuning trials.
TRIED_FACTORS = tuple(sorted((1.0, *FACTORS)))


def trial_name(name: str, factor: float) -> str:
    """The name of a row's trial."""
    return f"{name}, x {factor:g}"


TRIALS = tuple(
    replace(row, name=trial_name(row.name, factor), factor=factor)
    for row in GROUND_ROWS
    if not row.clean
    for factor in TRIED_FACTORS
)


def choose_factor(row: GroundRow, trials: Mapping[tuple[str, int], float], seeds: Sequence[int]) -> float:
    """The factor of a row's setting: the one whose trials have the best mean validation accuracy, the first of equals.

    Args:
        row: the row. A trial has its own factor, and so has the upper bound.
        trials: validation accuracy of each trial by name and seed.
        seeds: the seeds of the trials.

    Raises:
        UserError: A trial is missing.
    """
    if row.clean or row in TRIALS:
        return row.factor
    name, means = row.name.removesuffix(_EQUAL_SECONDS), dict[float, float]()
    for factor in TRIED_FACTORS:
        found = [trials[trial_name(name, factor), seed] for seed in seeds if (trial_name(name, factor), seed) in trials]
        if len(found) < len(seeds):
            raise UserError(f"row {row.name!r} needs the tuning trials of {name!r}, and some are missing")
        means[factor] = mean(found)
    return max(means, key=means.__getitem__)
