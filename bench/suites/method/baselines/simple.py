"""Rows that are one job of the product: weak labels only, checked clips only, plain distillation, today's method."""

from __future__ import annotations

from bench.suites.method.baselines.study import Outcome, Study


def train_on_weak_labels(study: Study) -> Outcome:
    """The student on the weak labels as they are; that somebody checked some of them is not used."""
    return study.train_alone(study.label_clips(study.data.weak_labels))


def train_on_checked_clips(study: Study) -> Outcome:
    """The student on the checked clips alone, with as many steps as on all clips."""
    return study.train_alone(study.repeat_checked_clips())


def train_on_given_labels(study: Study) -> Outcome:
    """The student on the labels as a recipe has them: checked ones where there are any, else weak ones."""
    return study.train_alone(study.data)


def distil_plainly(study: Study) -> Outcome:
    """Plain distillation (arXiv 1503.02531, torchdistill's loss): teacher and student have the given labels."""
    job = study.make_factory(study.data).make_plain_kd_job(study.student, logits_kind="td-kd")
    return study.train_graph(study.data, job)


def train_with_the_method(study: Study) -> Outcome:
    """What a recipe does by default."""
    return study.train_graph(study.data, study.make_factory(study.data).make_cascade_job(study.student, ()))
