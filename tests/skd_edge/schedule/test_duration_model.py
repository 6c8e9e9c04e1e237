"""What is told of the seconds of legs that nobody has trained yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skd_edge.execution.job_graph import Facts, Legs, Node
from skd_edge.execution.local_executor import Finished
from skd_edge.recipe.schema import Clip, Network, Recipe, Teacher
from skd_edge.schedule.duration_model import Pace

CLIP = Clip(frames=8, size=32)


def a_leg(network: Network) -> Node:
    """Nine epochs of it."""
    recipe = {"name": "r", "data": {"kind": "generated"}, "students": [network], "training": {"epochs": 9}}
    return Legs(Recipe.model_validate(recipe), Facts("data", "weak", 10)).cascade(network, ())


def finished(network: Network, seconds: float) -> Finished:
    """A leg of three epochs."""
    return Finished(a_leg(network), Path(), 0.5, 3 * seconds, False, [{}] * 3, np.zeros(4, bool))


def network(width: int, family: str = "mobile") -> Network:
    return Network(name=f"{family}{width}", family=family, width=width)


def test_nothing_is_told_before_anything_is_finished():
    assert Pace(CLIP).seconds(a_leg(network(8))) == 0.0


def test_its_own_epochs_come_first_and_one_slow_one_decides_nothing():
    pace = Pace(CLIP)
    for seconds in (2.0, 2.1, 60.0):
        pace.learn(finished(network(8), seconds))
    pace.learn(finished(network(16), 5.0))
    assert pace.seconds(a_leg(network(8))) == pytest.approx(9 * 2.1)


def test_an_unknown_network_lies_between_those_of_its_family_by_its_work():
    pace = Pace(CLIP)
    pace.learn(finished(network(8), 2.0))
    pace.learn(finished(network(16), 6.0))
    pace.learn(finished(network(12, "resnet"), 100.0))
    told = [pace.seconds(a_leg(network(w))) / 9 for w in (4, 10, 14, 32)]
    assert told[0] == 2.0  # nothing smaller is known
    assert 2.0 < told[1] < told[2] < 6.0
    assert told[3] == 6.0


def test_without_any_of_its_family_all_are_asked():
    pace = Pace(CLIP)
    pace.learn(finished(network(8), 2.0))
    assert pace.seconds(a_leg(network(16, "resnet"))) == 9 * 2.0


def test_a_teacher_made_elsewhere_is_not_measured_by_its_work():
    pace, factory = Pace(CLIP), Teacher(factory="mynet:net", substages=("a",))
    pace.learn(replace(finished(network(8), 7.0), node=replace(a_leg(network(8)), leg=replace(
        a_leg(network(8)).leg, learner=factory))))  # fmt: skip
    assert pace.seconds(a_leg(network(8, "resnet"))) == 9 * 7.0


def test_a_leg_without_epochs_says_nothing():
    pace = Pace(CLIP)
    pace.learn(Finished(a_leg(network(8)), Path(), 0.5, 3.0, False, [], np.zeros(4, bool)))
    assert pace.seconds(a_leg(network(8))) == 0.0
