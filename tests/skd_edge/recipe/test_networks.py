"""Networks and teachers in a recipe: what identifies them in a job's hash, and which settings go together."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from skd_edge.recipe.networks import NetworkSpec, SingleTeacher, Teacher
from skd_edge.recipe.training import TrainingOverrides


def test_only_a_causal_network_has_causal_in_its_architecture():
    for kind in (NetworkSpec, Teacher):
        plain = kind(name="n")
        assert "causal" not in plain.architecture
        assert kind(name="n", causal=True).architecture == plain.architecture | {"causal": True}


def test_training_and_name_are_not_part_of_the_architecture_and_later_settings_only_if_set():
    plain = NetworkSpec(name="n")
    named = NetworkSpec(name="m", training=TrainingOverrides(dense=0.5))
    assert named.architecture == plain.architecture
    assert plain.architecture.keys() == {"family", "width", "depths", "temporal", "expand"}
    assert NetworkSpec(name="n", frames=4).architecture == plain.architecture | {"frames": 4}


def test_the_architecture_of_a_file_does_not_contain_its_path():
    assert Teacher(onnx="a.onnx").architecture == Teacher(onnx="b.onnx").architecture
    assert Teacher(onnx="a.onnx").architecture != Teacher(hub="a").architecture
    assert Teacher(torchvision="r3d_18").architecture != Teacher(torchvision="mc3_18").architecture


FACTORY = {"factory": "m.n:net", "substages": ("a", "b")}


@pytest.mark.parametrize(
    ("given", "source", "substages", "trained_here", "scalable"),
    [
        ({}, None, 4, True, True),
        ({"family": "efficientnet-lite0"}, None, 4, True, False),
        ({"checkpoint": "t.pt"}, None, 4, False, True),
        (FACTORY, "factory", 2, True, False),
        (FACTORY | {"trained": True}, "factory", 2, False, False),
        ({"hub": "x"}, "hub", 4, True, False),
        ({"hub": "x", "substages": ("a",)}, "hub", 1, True, False),
        ({"torchvision": "r3d_18", "checkpoint": "t.pt"}, "torchvision", 4, False, False),
        ({"onnx": "t.onnx"}, "onnx", 0, False, False),
        ({"logits": "t.npz"}, "logits", 0, False, False),
    ],
)
def test_what_follows_from_the_source_of_a_teacher(given, source, substages, trained_here, scalable):
    teacher = SingleTeacher(**given)
    assert (teacher.source, teacher.substage_count) == (source, substages)
    assert (teacher.is_trained_here, teacher.is_scalable) == (trained_here, scalable)


def test_the_first_member_of_an_ensemble_gives_the_features():
    members = (SingleTeacher(**FACTORY, trained=True), SingleTeacher(hub="x", trained=True))
    teacher = Teacher(ensemble=members)
    assert teacher.members == members
    assert teacher.substage_count == 2
    assert not teacher.is_trained_here
    assert Teacher().members == (Teacher(),)


def test_the_module_of_a_factory():
    assert SingleTeacher(**FACTORY).factory_module == "m.n"
    assert SingleTeacher().factory_module == ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hub": "x", "onnx": "t.onnx"}, "teacher.hub and teacher.onnx are two networks; remove one"),
        ({"hub": "x", "width": 48}, "teacher.width is for the built-in families, but teacher.hub is given"),
        ({"onnx": "t", "arguments": {"a": 1}}, r"teacher.arguments is for external networks \(teacher.factory\), but"),
        ({"trained": True}, r"\(teacher.factory, teacher.hub\), but none of them is given; remove teacher.trained"),
        (FACTORY | {"substages": ("a", "a")}, "teacher.substages names 'a' twice"),
        ({"onnx": "t", "classes": ("a", "a")}, "teacher.classes names 'a' twice"),
        ({"hub": "x", "classes": ("a", "b")}, "this one is trained here and gets the dataset's classes"),
        ({"factory": "os.system"}, "factory"),
        ({"training": TrainingOverrides()}, "not a teacher; remove it"),
        ({"ensemble": (SingleTeacher(onnx="t"),)}, "has one member"),
        ({"ensemble": (SingleTeacher(onnx="t"), SingleTeacher(hub="x"))}, "ensemble.1 would have to be trained first"),
        ({"ensemble": (SingleTeacher(onnx="t"), SingleTeacher(logits="x"))}, "ensemble.1 is a file of logits"),
        ({"average": "logits"}, "teacher.average is for teacher.ensemble"),
    ],
)
def test_invalid_teachers_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        Teacher(**given)


@pytest.mark.parametrize("key", ["width", "depths", "expand", "causal", "frames", "size"])
def test_efficientnet_lite_has_fixed_settings(key):
    value = {"width": 8, "depths": (1, 1), "expand": 3, "causal": True, "frames": 4, "size": 16}[key]
    assert NetworkSpec(name="n", **{key: value})
    with pytest.raises(ValidationError, match=f"n: {key} is fixed in efficientnet-lite1"):
        NetworkSpec(name="n", family="efficientnet-lite1", **{key: value})


def test_only_efficientnet_lite_has_imagenet_weights():
    assert NetworkSpec(name="n", family="efficientnet-lite0", start="imagenet").start == "imagenet"
    with pytest.raises(ValidationError, match="start: imagenet is for the families efficientnet-lite0 to 2"):
        NetworkSpec(name="n", start="imagenet")


def test_a_teacher_with_a_dict_of_arguments_has_a_hash():
    one, same = (SingleTeacher(**FACTORY, arguments={"a": [1]}) for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
