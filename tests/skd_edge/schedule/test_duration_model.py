"""What is told of the seconds of jobs that nobody has trained yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skd_edge.execution.job_graph import DatasetFingerprint, JobFactory, TrainingJob
from skd_edge.execution.local_executor import JobResult
from skd_edge.recipe.schema import NetworkSpec, Recipe, Teacher
from skd_edge.recipe.sections import ClipSettings
from skd_edge.schedule.duration_model import DurationModel

CLIP = ClipSettings(frames=8, size=32)


def a_job(network: NetworkSpec) -> TrainingJob:
    """Nine epochs of it."""
    recipe = {"name": "r", "data": {"kind": "generated"}, "students": [network], "training": {"epochs": 9}}
    return JobFactory(Recipe.model_validate(recipe), DatasetFingerprint("data", "weak", 10)).make_cascade_job(
        network, ()
    )


def finished(network: NetworkSpec, seconds: float) -> JobResult:
    """A job of three epochs."""
    return JobResult(a_job(network), Path(), 0.5, 3 * seconds, False, [{}] * 3, np.zeros(4, bool))


def network(width: int, family: str = "mobile") -> NetworkSpec:
    return NetworkSpec(name=f"{family}{width}", family=family, width=width)


def test_nothing_is_told_before_anything_is_finished():
    assert DurationModel(CLIP).estimate_seconds(a_job(network(8))) == 0.0


def test_its_own_epochs_come_first_and_one_slow_one_decides_nothing():
    pace = DurationModel(CLIP)
    for seconds in (2.0, 2.1, 60.0):
        pace.add_result(finished(network(8), seconds))
    pace.add_result(finished(network(16), 5.0))
    assert pace.estimate_seconds(a_job(network(8))) == pytest.approx(9 * 2.1)


def test_an_unknown_network_lies_between_those_of_its_family_by_its_work():
    pace = DurationModel(CLIP)
    pace.add_result(finished(network(8), 2.0))
    pace.add_result(finished(network(16), 6.0))
    pace.add_result(finished(network(12, "resnet"), 100.0))
    told = [pace.estimate_seconds(a_job(network(w))) / 9 for w in (4, 10, 14, 32)]
    assert told[0] == 2.0  # nothing smaller is known
    assert 2.0 < told[1] < told[2] < 6.0
    assert told[3] == 6.0


def test_without_any_of_its_family_all_are_asked():
    pace = DurationModel(CLIP)
    pace.add_result(finished(network(8), 2.0))
    assert pace.estimate_seconds(a_job(network(16, "resnet"))) == 9 * 2.0


def test_a_teacher_made_elsewhere_is_not_measured_by_its_work():
    pace, factory = DurationModel(CLIP), Teacher(factory="mynet:net", substages=("a",))
    pace.add_result(
        replace(
            finished(network(8), 7.0),
            job=replace(a_job(network(8)), spec=replace(a_job(network(8)).spec, learner=factory)),
        )
    )
    assert pace.estimate_seconds(a_job(network(8, "resnet"))) == 9 * 7.0


def test_a_job_without_epochs_says_nothing():
    pace = DurationModel(CLIP)
    pace.add_result(JobResult(a_job(network(8)), Path(), 0.5, 3.0, False, [], np.zeros(4, bool)))
    assert pace.estimate_seconds(a_job(network(8))) == 0.0
