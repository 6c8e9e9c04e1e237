"""The duration of a job is estimated from finished jobs of the same or of similar networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skd_edge.execution.job_graph import DatasetFingerprint, JobFactory, TrainingJob
from skd_edge.execution.job_results import JobResult
from skd_edge.recipe.schema import NetworkSpec, Recipe, Teacher
from skd_edge.recipe.sections import ClipSettings
from skd_edge.schedule.duration_model import DurationModel

CLIP = ClipSettings(frames=8, size=32)


def make_job(network: NetworkSpec) -> TrainingJob:
    """A job of nine epochs."""
    recipe = {"name": "r", "data": {"kind": "generated"}, "students": [network], "training": {"epochs": 9}}
    return JobFactory(Recipe.model_validate(recipe), DatasetFingerprint("data", "weak", 10)).make_cascade_job(
        network, ()
    )


def finished(network: NetworkSpec, seconds: float) -> JobResult:
    """The result of a job of three epochs, each of which took so many seconds."""
    return JobResult(make_job(network), Path(), 0.5, 3 * seconds, False, [{}] * 3, np.zeros(4, bool), np.zeros(4, int))


def network(width: int, family: str = "mobile") -> NetworkSpec:
    return NetworkSpec(name=f"{family}{width}", family=family, width=width)


def test_the_estimate_is_zero_before_any_job_is_finished():
    assert DurationModel(CLIP).estimate_seconds(make_job(network(8))) == 0.0


def test_the_median_of_the_networks_own_epochs_is_used_first():
    model = DurationModel(CLIP)
    for seconds in (2.0, 2.1, 60.0):
        model.add_result(finished(network(8), seconds))
    model.add_result(finished(network(16), 5.0))
    assert model.estimate_seconds(make_job(network(8))) == pytest.approx(9 * 2.1)


def test_an_unknown_network_is_interpolated_between_those_of_its_family():
    model = DurationModel(CLIP)
    model.add_result(finished(network(8), 2.0))
    model.add_result(finished(network(16), 6.0))
    model.add_result(finished(network(12, "resnet"), 100.0))
    estimates = [model.estimate_seconds(make_job(network(w))) / 9 for w in (4, 10, 14, 32)]
    assert estimates[0] == 2.0  # the smallest known network
    assert 2.0 < estimates[1] < estimates[2] < 6.0
    assert estimates[3] == 6.0


def test_without_a_network_of_the_family_all_networks_are_used():
    model = DurationModel(CLIP)
    model.add_result(finished(network(8), 2.0))
    assert model.estimate_seconds(make_job(network(16, "resnet"))) == 9 * 2.0


def test_a_teacher_without_a_family_is_used_if_there_is_nothing_else():
    model, factory = DurationModel(CLIP), Teacher(factory="mynet:net", substages=("a",))
    model.add_result(
        replace(
            finished(network(8), 7.0),
            job=replace(make_job(network(8)), spec=replace(make_job(network(8)).spec, learner=factory)),
        )
    )
    assert model.estimate_seconds(make_job(network(8, "resnet"))) == 9 * 7.0


def test_a_job_without_epochs_is_ignored():
    model = DurationModel(CLIP)
    model.add_result(JobResult(make_job(network(8)), Path(), 0.5, 3.0, False, [], np.zeros(4, bool), np.zeros(4, int)))
    assert model.estimate_seconds(make_job(network(8))) == 0.0
