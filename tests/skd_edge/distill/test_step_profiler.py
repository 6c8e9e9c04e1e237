"""The step profiler: it measures every job, leaves the random state alone, and trains nothing but a copy."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from skd_edge.distill.step_profiler import measure_step_times
from skd_edge.models.tsm import build_tsm
from skd_edge.recipe.schema import NetworkSpec


def make_teacher():
    spec = NetworkSpec(name="t", family="resnet", width=4, depths=(1, 1))
    return build_tsm(spec, classes=4, frames=4, size=16, seed=9)


@pytest.mark.parametrize("kind", ["weak", "staged"])
def test_a_job_has_positive_times(tools, kind):
    job = getattr(tools, kind)
    times = measure_step_times(job, make_teacher() if job.teacher else None, tools.preprocess, steps=4)
    assert times.seconds_per_step > 0
    assert times.seconds_per_clip > 0


def test_a_job_without_epochs_has_no_steps(tools):
    times = measure_step_times(replace(tools.weak, epochs=0), None, tools.preprocess)
    assert times.seconds_per_step == 0
    assert times.seconds_per_clip > 0


def test_random_state_and_teacher_are_unchanged(tools):
    teacher = make_teacher()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    state = torch.get_rng_state()
    measure_step_times(tools.staged, teacher, tools.preprocess, steps=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
