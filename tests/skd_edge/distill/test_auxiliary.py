"""Projectors and adapters of a job: which jobs have them, and that they depend on the seed only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from skd_edge.distill.auxiliary import build_auxiliary_modules
from skd_edge.distill.teacher_outputs import TeacherOutputs
from skd_edge.models.tsm import build_tsm


class Outputs:
    """The outputs of a teacher with two substages of 8 and 16 channels."""

    network = None

    def outputs_for_view(self, view):
        return TeacherOutputs(np.zeros((3, 4), np.float32), [np.zeros((3, 4, c), np.float32) for c in (8, 16)])


def build(spec, teacher):
    return build_auxiliary_modules(spec, (4, 8), teacher, torch.device("cpu"))


def test_only_staged_jobs_with_a_teacher_have_them(tools):
    assert build(tools.staged, None) == build(replace(tools.staged, staged=False), Outputs()) == (None, None)
    distribution, graft = build(tools.staged, Outputs())
    assert [p.shape for p in distribution.parameters() if p.dim() > 1] == [(8, 4), (16, 8)]
    assert graft is None


def test_their_weights_depend_on_the_seed_only(tools):
    first = build(tools.staged, Outputs())[0].state_dict()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = build(tools.staged, Outputs())[0].state_dict()
    other = build(replace(tools.staged, seed=1), Outputs())[0].state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_adapters_fit_the_teachers_substages(tools):
    source = Outputs()
    source.network = build_tsm(tools.weak.learner.model_copy(update={"width": 8}), classes=4, frames=4, size=16, seed=0)
    training = tools.staged.training.model_copy(update={"combination": "graft"})
    _, graft = build(replace(tools.staged, training=training), source)
    assert [(a[0].in_channels, a[0].out_channels) for a in graft.adapters] == [(4, 8), (8, 16)]
