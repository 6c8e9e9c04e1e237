"""The whole recipe: checks that involve several sections, and what follows from them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from skd_edge.recipe.schema import Recipe

BASE = {
    "name": "r",
    "data": {"kind": "generated"},
    "assistants": [{"name": "a"}, {"name": "b"}],
    "students": [{"name": "s", "width": 8}],
}
VOTES = {"kind": "csv", "root": "d", "train": {}, "val": {}, "test": {}, "votes": ["a", "b"]}


def recipe(**changes):
    return Recipe.model_validate(BASE | changes)


def test_networks_are_listed_by_name_from_the_teacher_to_the_students():
    assert list(recipe().networks) == ["teacher", "a", "b", "s"]


@pytest.mark.parametrize(
    ("schedule", "paths"),
    [
        ({}, ((), ("a", "b"))),
        ({"search": "halving"}, ((), ("a",), ("b",), ("a", "b"))),
        ({"paths": [["b"]]}, (("b",),)),
        ({"paths": [["b"]], "search": "halving"}, ((), ("b",))),
        ({"paths": [["b"], []], "search": "halving"}, (("b",), ())),
    ],
)
def test_cascade_paths(schedule, paths):
    assert recipe(schedule=schedule).cascade_paths == paths


def test_without_assistants_the_only_path_is_direct():
    assert recipe(assistants=[]).cascade_paths == ((),)


def test_proposed_networks_use_successive_halving_by_default():
    assert not recipe().uses_successive_halving
    auto = {"students": [], "auto": ["students"]}
    assert recipe(**auto).uses_successive_halving
    assert not recipe(**auto, schedule={"search": "exhaustive"}).uses_successive_halving


def test_students_that_differ_only_in_name_and_training_have_one_architecture():
    students = [{"name": "s"}, {"name": "t", "training": {"dense": 0.5}}, {"name": "u", "width": 8}]
    assert recipe(students=students).same_architecture == {"s": "s", "t": "s", "u": "u"}


def test_the_training_of_a_learner_has_its_overrides():
    made = recipe(students=[{"name": "s", "training": {"dense": 0.5}}], training={"rate": 0.01})
    student, assistant = made.networks["s"], made.networks["a"]
    assert made.training_of(assistant) is made.training
    assert (made.training_of(student).dense, made.training_of(student).rate) == (0.5, 0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"students": [{"name": "a"}]}, "two networks are called 'a'"),
        ({"students": [{"name": "s", "depths": [1, 1]}]}, "s has 2 substages and teacher has 4"),
        ({"clip": {"size": 16}, "students": [{"name": "s", "size": 8}]}, "s halves the image 4 times"),
        ({"students": []}, "students is an empty list"),
        ({"auto": ["students"]}, "auto proposes the students, but students also lists some"),
        ({"auto": ["assistants"]}, "auto proposes the assistants, but assistants also lists some"),
        ({"schedule": {"paths": [["c"]]}}, "names 'c', which is not an assistant; choose from: a, b"),
        ({"schedule": {"paths": [["a", "a"]]}}, "names an assistant twice in one path: a -> a"),
        ({"schedule": {"rungs": [0.5, 0.2]}}, r"rising order; change \[0.5, 0.2\]"),
        ({"training": {"match": [2, 1]}}, r"rising order, from 1 to 4 here; change \[2, 1\]"),
        ({"training": {"batch": 8, "accumulate": 5}}, "a batch of 8 into 5 parts"),
        ({"labels": {"folds": 1}}, "with one fold, no clips remain"),
        ({"data": VOTES, "labels": {"noise": {"kind": "symmetric"}}}, "labels of data.votes may be wrong"),
        ({"export": {"calibration_clips": 0}}, "int8 needs calibration clips"),
        ({"export": {"frame_size": [64, 64]}}, "set export.contract to frames"),
        ({"export": {"litert": True, "contract": "frames"}}, "set export.contract to clip"),
        ({"bench": {"runtime": ["ort", "litert"]}, "export": {"contract": "frames"}}, "bench.runtime litert takes"),
        ({"teacher": {"logits": "t.npz"}, "augment": {"mixup": 0.4}}, "no logits for mixed clips"),
        ({"teacher": {"logits": "t.npz"}, "choice": {"budget": "2 x teacher"}}, "teacher.logits is not a network"),
        ({"students": [{"name": "s", "frames": 3}]}, "uses frames 3, which does not divide clip.frames 8"),
        ({"students": [{"name": "s", "causal": True, "frames": 4}]}, "s is causal"),
        ({"space": {"ways": {"w": {}}}}, "space.ways is for 'students: auto'"),
        ({"space": {"depths": [[1, 1]]}}, r"space.depths has \[1, 1\], but the teacher has 4 substages"),
        ({"teacher": {"family": "efficientnet-lite0", "width": 32}, "training": {"combination": "graft"}}, "graft"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        recipe(**changes)


def test_a_proposal_needs_widths_if_the_teacher_has_none():
    changes = {"teacher": {"torchvision": "r3d_18"}, "students": [], "auto": ["students"], "assistants": []}
    with pytest.raises(ValidationError, match=r"space\.widths is missing"):
        recipe(**changes)
    assert recipe(**changes, space={"widths": [8, 16]}).auto == ("students",)
