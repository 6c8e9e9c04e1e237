"""The training objective: loss terms and their weights, phases, matched substages, several teachers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from skd_edge.distill.losses.distribution import DistributionLoss
from skd_edge.distill.objective import compute_loss_terms, phase_at
from skd_edge.models.substages import SubstageOutput
from skd_edge.recipe.schema import LossSettings, NetworkSpec, TrainingSettings


def test_loss_terms_and_their_weights(tools):
    """Which terms a batch has; each weight scales its own term only, and 0 removes it."""
    torch.manual_seed(0)
    student = SubstageOutput([torch.randn(6, 4, 4), torch.randn(6, 4, 8)], torch.randn(6, 4))
    teacher = SubstageOutput([torch.randn(6, 4, 5), torch.randn(6, 4, 10)], torch.randn(6, 4))
    targets, ema_predictions = torch.eye(4)[[0, 1, 2, 3, 0, 1]], torch.full((6, 4), 0.2)
    distribution_loss = DistributionLoss((4, 8), (5, 10)).eval()

    def terms(student=student, teacher=teacher, ema=ema_predictions, loss=distribution_loss, **weight):
        job = replace(tools.staged, training=TrainingSettings(losses=LossSettings(**({"distribution": 1.0} | weight))))
        return {k: v.item() for k, v in compute_loss_terms(job, student, teacher, targets, ema, loss).items()}

    every = terms()
    assert set(every) == {"labels", "early learning", "logits", "correlation", "distribution"}
    assert set(terms(teacher=None, loss=None, ema=None)) == {"labels"}
    assert set(terms(loss=None, ema=None)) == {"labels", "logits"}
    assert set(terms(student=SubstageOutput(student.features[:1], None))) == {"correlation", "distribution"}
    assert set(terms(logits=0, correlation=0, distribution=0)) == {"labels", "early learning"}
    for name in ("labels", "logits", "correlation", "distribution"):
        doubled = terms(**{name: 2 * (getattr(LossSettings(), name) or 1.0)})
        assert doubled[name] == pytest.approx(2 * every[name], rel=1e-5)
        assert {k: v for k, v in doubled.items() if k != name} == {k: v for k, v in every.items() if k != name}


def test_phases_of_a_curriculum(tools):
    """Which prefix is trained when, with all substages matched or some, by curriculum and by graft."""

    def phases(**settings):
        training = TrainingSettings(**(tools.everything | settings), prefix=0.5)
        job = replace(tools.staged, learner=NetworkSpec(name="n", width=4), training=training)
        return [(p.upto, p.grafted) for p in (phase_at(job, d / 8) for d in range(6))]

    whole = (None, False)
    assert phases() == [(1, False), (2, False), (3, False), (4, False), whole, whole]
    assert phases(match=(2, 4)) == [(2, False)] * 2 + [(4, False)] * 2 + [whole] * 2
    assert phases(combination="graft", match=(1, 2, 4)) == [(1, True)] * 2 + [(2, True)] * 2 + [whole] * 2
    # After the last substage nothing of the teacher is left.
    assert phases(combination="graft", match=(4,)) == [whole] * 6
    assert phases(combination="none") == [whole] * 6
    assert phases(losses=LossSettings(correlation=0, distribution=0)) == [whole] * 6


def test_only_matched_substages_are_compared(tools):
    """The first substage of the teacher has no effect if only the second is matched."""
    torch.manual_seed(0)
    student = SubstageOutput([torch.randn(6, 4, 4), torch.randn(6, 4, 8)], torch.randn(6, 4))
    teacher = SubstageOutput([torch.randn(6, 4, 5), torch.randn(6, 4, 10)], torch.randn(6, 4))
    other = SubstageOutput([torch.randn(6, 4, 5), teacher.features[1]], teacher.logits)
    job = replace(tools.staged, training=TrainingSettings(**tools.everything, match=(2,)))
    terms = [
        compute_loss_terms(job, student, t, torch.eye(4)[[0, 1, 2, 3, 0, 1]])["labels"].item() for t in (teacher, other)
    ]
    assert terms[0] == terms[1]
    distribution_loss = DistributionLoss((8,), (10,)).eval()
    each = [
        compute_loss_terms(job, student, t, torch.eye(4)[[0, 1, 2, 3, 0, 1]], None, distribution_loss)
        for t in (teacher, other)
    ]
    assert all(each[0][name].item() == each[1][name].item() for name in each[0])


def test_dense_guidance_is_the_mean_over_the_teachers(tools):
    torch.manual_seed(0)
    student = SubstageOutput([torch.randn(6, 4, 4)], torch.randn(6, 4))
    teacher, other = SubstageOutput([torch.randn(6, 4, 5)], torch.randn(6, 4)), torch.randn(6, 4)
    targets, job = torch.eye(4)[[0, 1, 2, 3, 0, 1]], tools.staged

    def logit_term(own, *others):
        teacher_out = SubstageOutput(teacher.features, own)
        return compute_loss_terms(job, student, teacher_out, targets, other_logits=others)["logits"].item()

    both = (logit_term(teacher.logits) + logit_term(other)) / 2
    assert logit_term(teacher.logits, other) == pytest.approx(both, rel=1e-5)
