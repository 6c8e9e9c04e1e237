"""Rows of the study with a few checked clips: what people have is labels of a weak model or of rules.

Every row has the same student, epochs, views, schedule and initial weights, and sees the same checked clips. Rows of
``baselines/`` never see a true label that nobody checked. Each has one setting of its own that tuning trials multiply
by the same factors; they are compared on validation clips.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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

_RATE = "training.rate"
_LOGITS = "training.losses.logits"


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
    replace(row, name=f"{row.name}, equal seconds", stretch=stretch)
    for name, stretch in (("CFT", EQUAL_ALONE), ("CFT, then KD", EQUAL), ("KD", EQUAL), ("three lines, then KD", 1.25))
    for row in GROUND_ROWS
    if row.name == name
)

# Equal tuning trials.
TRIALS = tuple(
    replace(row, name=f"{row.name}, x {factor:g}", factor=factor)
    for row in GROUND_ROWS
    if not row.clean
    for factor in FACTORS
)
