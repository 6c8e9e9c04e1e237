"""Which network a recipe's description gives, and the errors that are reported before clips are read."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from skd_bench.errors import UsageError, UserError
from skd_edge.models.builder import build_network, validate_networks
from skd_edge.models.efficientnet import EfficientNetLite
from skd_edge.models.external import factory
from skd_edge.models.external.adapter import Adapter
from skd_edge.models.external.ensemble import Ensemble
from skd_edge.models.tsm import TSM
from skd_edge.recipe.schema import NetworkSpec, Recipe, SingleTeacher, Teacher
from skd_edge.recipe.sections import ClipSettings

HERE, CLIP = Path(__file__).parent / "external", ClipSettings(frames=4, size=16)
CUBES = {"factory": "foreign_networks:cubes", "code": HERE, "substages": ("layers.0", "layers.1")}


def build(network, classes=5):
    return build_network(network, classes=classes, clip=CLIP, seed=0)


@pytest.fixture
def allowed(monkeypatch):
    monkeypatch.setattr(factory, "_allowed_factories", {CUBES["factory"]})


@pytest.mark.parametrize(
    ("family", "kind"), [("resnet", TSM), ("mobile", TSM), ("efficientnet-lite0", EfficientNetLite)]
)
def test_a_built_in_family_gives_its_network(family, kind):
    assert type(build(NetworkSpec(name="n", family=family))) is kind
    assert type(build(Teacher(family=family, width=Teacher().width))) is kind


def test_an_external_teacher_gives_an_adapter(allowed):
    assert type(build(Teacher(**CUBES))) is Adapter


@torch.no_grad()
def test_an_ensemble_loads_the_weights_of_its_members(allowed, tmp_path):
    member = build(Teacher(**CUBES)).eval()
    torch.nn.init.normal_(member.network.fc.weight)
    torch.save(member.network.state_dict(), tmp_path / "w.pt")
    one = SingleTeacher(**CUBES, checkpoint=tmp_path / "w.pt")
    ensemble = build(Teacher(ensemble=(one, one.model_copy(update={"name": "second"}))))
    assert type(ensemble) is Ensemble
    clip = torch.rand(2, 3, 4, 16, 16)
    expected = member(clip).logits.softmax(1)
    assert torch.allclose(ensemble.eval()(clip).logits.softmax(1), expected, atol=1e-5)
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="does not fit the ensemble member"):
        build(Teacher(ensemble=(one, one)))


def validate(teacher, allow_code=False, **student):
    student = {"name": "small", "depths": (1,) * (teacher.substage_count or 2), **student}
    recipe = Recipe(name="r", data={"kind": "generated"}, clip=CLIP, teacher=teacher, students=(student,))
    validate_networks(recipe, allow_code=allow_code)


def test_validation_needs_permission_for_a_factory_and_then_builds_it(monkeypatch):
    monkeypatch.setattr(factory, "_allowed_factories", set())
    with pytest.raises(UsageError, match="--allow-code"):
        validate(Teacher(**CUBES))
    validate(Teacher(**CUBES), allow_code=True)
    with pytest.raises(UserError, match=r"'layers\.7', which is not a module of the network"):
        validate(Teacher(**CUBES | {"substages": ("layers.7",)}), allow_code=True)


def test_validation_of_a_student_of_somebody_else_names_the_student(monkeypatch):
    monkeypatch.setattr(factory, "_allowed_factories", set())
    teacher, student = Teacher(depths=(1, 1)), {**CUBES, "depths": (1, 1, 1, 1)}
    with pytest.raises(UsageError, match=r"small.factory 'foreign_networks:cubes' runs somebody's code.*--allow-code"):
        validate(teacher, **student)
    validate(teacher, allow_code=True, **student)
    with pytest.raises(UserError, match=r"small.substages names 'layers\.7', which is not a module of the network"):
        validate(teacher, allow_code=True, **student | {"substages": ("layers.0", "layers.7")})
    with pytest.raises(UserError, match=r"small does not accept clips .* set small.input"):
        validate(teacher, allow_code=True, **student | {"input": "frames"})


def test_validation_checks_every_member_of_an_ensemble(allowed):
    good = SingleTeacher(**CUBES, trained=True)
    bad = SingleTeacher(**CUBES | {"substages": ("layers.7",)}, trained=True)
    validate(Teacher(ensemble=(good, good)), allow_code=True)
    with pytest.raises(UserError, match=r"'layers\.7'"):
        validate(Teacher(ensemble=(good, bad)), allow_code=True)


def test_validation_reads_a_file_of_logits(tmp_path):
    path = tmp_path / "t.npz"
    with pytest.raises(UserError, match="cannot be read"):
        validate(Teacher(logits=path))
    np.savez(path, clips=np.array(["a", "b"]), logits=np.eye(2))
    validate(Teacher(logits=path))
    with pytest.raises(UserError, match="2 columns, but 3 class names"):
        validate(Teacher(logits=path, classes=("x", "y", "z")))


def test_validation_of_a_built_in_teacher_imports_nothing_external():
    before = set(sys.modules)
    validate(Teacher())
    assert not {name.split(".")[0] for name in set(sys.modules) - before} & {"transformers", "torchvision", "timm"}
