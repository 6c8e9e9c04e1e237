"""The local engine: a teacher that was trained elsewhere, and one leg under two names."""

from __future__ import annotations

import pytest
from safetensors.torch import save_file

from skd_bench.errors import UserError
from skd_edge.data.gather import deployed_view, gather
from skd_edge.models.tsm import build
from skd_edge.plan import facts_of
from skd_edge.recipe_file import load_recipe
from skd_edge.run import Run, cache_root, read_journal
from skd_edge.schedule.engines import LocalEngine
from skd_edge.schedule.tree import grow

RECIPE = """
name: given
data: {kind: generated, train: 40, val: 20, test: 20, frames: 4, size: 16}
clip: {frames: 4, size: 16}
augment: {shift: 1, views: 2}
teacher: {family: resnet, width: 8, depths: [1, 1], checkpoint: teacher.safetensors}
assistants: [{name: assistant, width: 8, depths: [1, 1]}]
students: [{name: small, width: 4, depths: [1, 1]}, {name: twin, width: 8, depths: [1, 1]}]
schedule: {controls: []}
training: {epochs: 1, batch: 20}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    network = build(recipe.teacher, classes=10, frames=4, size=16, seed=5)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, tmp_path / "teacher.safetensors")
    return recipe


def test_a_given_teacher_is_not_trained_and_teaches(recipe, tmp_path):
    material = gather(recipe, cache_root())
    nodes = grow(recipe, facts_of(material), recipe.students)
    assert [n.leg.role for n in nodes][:2] == ["teacher", "student"]
    with Run(tmp_path / "run", "x: 1") as run:
        engine = LocalEngine(run, material, recipe.labels, deployed_view(recipe.clip)[1])
        done = [engine.train(node) for node in nodes]
        given = build(recipe.teacher, classes=10, frames=4, size=16, seed=5).state_dict()
        assert all((engine.network(nodes[0]).state_dict()[k] == v).all() for k, v in given.items())
    assert done[0].curve == []
    assert all(len(d.curve) == 1 for d in done[1:])
    # The twin by the direct path has the assistant's shape: one leg, trained once, found under both names.
    names = {d.node.leg.path[-1]: d.node.hash for d in done if len(d.node.leg.path) == 2}
    assert names["twin"] == names["assistant"] != names["small"]
    finished = [e["leg"] for e in read_journal(tmp_path / "run") if e["event"] == "leg_finished"]
    assert len(finished) == len(set(finished)) == len({n.hash for n in nodes})


def test_a_teacher_of_another_shape_is_refused(recipe, tmp_path):
    other = recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update={"width": 12})})
    material = gather(other, cache_root())
    node = grow(other, facts_of(material), other.students)[0]
    with Run(tmp_path / "run", "x: 1") as run:
        engine = LocalEngine(run, material, other.labels, deployed_view(other.clip)[1])
        with pytest.raises(UserError, match=r"teacher\.checkpoint .* does not fit the teacher"):
            engine.train(node)
