"""``students: auto``: the grid of networks, the shortlist, and the proposed assistants."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_bench.errors import UsageError, UserError
from skd_edge.models.builder import build_network
from skd_edge.recipe.loader import load_recipe, resolved_yaml
from skd_edge.recipe.schema import NetworkSpec, Recipe
from skd_edge.schedule.search_space import (
    build_network_grid,
    propose_assistants,
    resolve_auto,
    restore_proposal,
    shortlist_networks,
    student_widths,
)

TEXT = """
name: auto
data: {kind: generated}
clip: {frames: 8, size: 32}
teacher: {family: resnet, width: 32}
students: auto
assistants: auto
choice: {budget: 0.5 x teacher}
"""


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    (tmp_path / "recipe.yaml").write_text(TEXT)
    return load_recipe(tmp_path / "recipe.yaml")


def test_auto_is_preserved_when_a_recipe_is_written(recipe, tmp_path):
    assert recipe.students == recipe.assistants == ()
    assert recipe.auto == ("students", "assistants")
    assert recipe.uses_successive_halving
    (tmp_path / "again.yaml").write_text(resolved_yaml(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT.replace("students: auto", "students: []"), "describe one, or write 'students: auto'"),
        (TEXT + "space: {depths: [[1, 1]]}\n", "corresponding substages need equal counts"),
        (TEXT + "schedule: {rungs: [0.5, 0.3]}\n", "rising order"),
        (TEXT.replace("students: auto", "students: [{name: s, frames: 3}]"), "does not divide clip.frames 8"),
        (TEXT + "space: {ways: {far: {match: [5]}}}\n", "1 to 4 here"),
        (
            TEXT.replace("students: auto", "students: [{name: s}]") + "space: {ways: {a: {}}}\n",
            "is for 'students: auto'",
        ),
    ],
)
def test_an_impossible_search_space_is_an_error(tmp_path, text, message):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_recipe(tmp_path / "recipe.yaml")


def test_each_student_gets_every_training_variant(tmp_path):
    ways = "space: {ways: {graft: {combination: graft}, far: {match: [4], losses: {distribution: 1}}}}\n"
    (tmp_path / "recipe.yaml").write_text(TEXT + ways)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    selected = build_network_grid(recipe)[:2]
    whole = resolve_auto(recipe, selected)
    assert [s.name for s in whole.students] == [
        *(n.name for n in selected),
        *(f"{n.name}-{way}" for n in selected for way in ("graft", "far")),
    ]
    assert len(set(whole.same_architecture.values())) == 2
    assert whole.training_of(whole.students[3]).match == (4,)
    assert restore_proposal(recipe, [s.name for s in whole.students]) == whole
    (tmp_path / "again.yaml").write_text(resolved_yaml(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe


def test_networks_with_other_frames_or_size_are_not_grafted(tmp_path):
    (tmp_path / "recipe.yaml").write_text(TEXT + "space: {ways: {graft: {combination: graft}}}\n")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    grafted = [s for s in resolve_auto(recipe, build_network_grid(recipe)).students if s.training]
    assert any(n.frames for n in build_network_grid(recipe))
    assert len(grafted) == sum(not (n.frames or n.size) for n in build_network_grid(recipe))


def test_a_proposed_assistant_cannot_have_the_name_of_a_student(recipe):
    selected = [build_network_grid(recipe)[0]]
    (name, *_) = [a.name for a in resolve_auto(recipe, selected).assistants]
    with pytest.raises(UserError, match=f"two networks are called '{name}'"):
        resolve_auto(recipe, [selected[0].model_copy(update={"name": name})])


def test_the_grid_has_all_widths_and_changes_one_setting_at_a_time(recipe):
    found = build_network_grid(recipe)
    assert len({n.name for n in found}) == len(found) == 4 * len(student_widths(recipe.space, recipe.teacher))
    assert {(n.family, n.temporal, n.frames) for n in found} == {
        ("mobile", "conv", None),
        ("resnet", "conv", None),
        ("mobile", "shift", None),
        ("mobile", "conv", 4),
    }
    assert max(n.width for n in found) == 32
    assert min(n.width for n in found) < 8


@settings(max_examples=60, deadline=None)
@given(
    times=st.lists(st.floats(0.1, 50), min_size=1, max_size=30),
    budget=st.none() | st.floats(0.1, 50),
    keep=st.integers(1, 8),
)
def test_the_shortlist_is_within_the_budget_and_sorted_by_latency(times, budget, keep):
    networks = {
        f"n{i}": NetworkSpec(name=f"n{i}", width=4 + i % 7, temporal="shift" if i % 3 else "conv")
        for i in range(len(times))
    }
    p50 = {f"n{i}": t for i, t in enumerate(times)}
    selected = shortlist_networks(networks, p50, budget, keep)
    within = [t for t in times if budget is None or t <= budget]
    got = [p50[n.name] for n in selected]
    assert len({n.name for n in selected}) == len(selected) == min(keep, len(within))
    assert got == sorted(got)
    assert set(got) <= set(within)


def test_the_shortlist_covers_latencies_and_architectures():
    networks = {
        f"{t}{w}": NetworkSpec(name=f"{t}{w}", width=w, temporal=t) for w in (4, 8, 16, 32) for t in ("conv", "shift")
    }
    p50 = {name: n.width / 4 * (1.02 if n.temporal == "shift" else 1) for name, n in networks.items()}
    selected = shortlist_networks(networks, p50, None, 4)
    assert [n.width for n in selected] == [4, 8, 16, 32]
    assert {n.temporal for n in selected} == {"conv", "shift"}


def test_assistants_lie_between_teacher_and_students(recipe):
    found = propose_assistants(recipe, [NetworkSpec(name="s", width=8)])
    assert [a.width for a in found] == [20, 12]
    assert all(a.family == "resnet" for a in found)
    assert propose_assistants(recipe, [NetworkSpec(name="s", width=30)]) == ()


def test_a_network_can_use_fewer_frames_and_a_smaller_image(recipe):
    plain = build_network(NetworkSpec(name="a", width=4), classes=3, clip=recipe.clip, seed=0)
    small = build_network(NetworkSpec(name="b", width=4, frames=4, size=16), classes=3, clip=recipe.clip, seed=0)
    clip = torch.randn(2, 3, 8, 32, 32)
    features = small(clip).features
    assert [f.shape[1] for f in features] == [4] * 4
    # It uses every second frame from the second on, with 2x2 pixels averaged.
    reduced = torch.nn.functional.avg_pool3d(clip[:, :, 1::2], (1, 2, 2))
    own = build_network(
        NetworkSpec(name="c", width=4), classes=3, clip=recipe.clip.model_copy(update={"frames": 4, "size": 16}), seed=0
    )
    own.load_state_dict(small.state_dict())
    small.eval(), own.eval()
    torch.testing.assert_close(small(clip).logits, own(reduced).logits)
    assert plain(clip).features[0].shape[1] == 8


def test_unset_frames_and_size_are_not_part_of_the_architecture():
    assert "frames" not in NetworkSpec(name="a").architecture
    assert NetworkSpec(name="a", frames=4).architecture["frames"] == 4


def test_a_family_with_fixed_depths_is_proposed_at_every_width(tmp_path):
    space = "space: {families: [mobile, mobilenetv3-small], widths: [8, 16], frames: [8], temporal: [conv]}\n"
    (tmp_path / "recipe.yaml").write_text(TEXT + space)
    grid = build_network_grid(load_recipe(tmp_path / "recipe.yaml"))
    assert [n.name for n in grid] == ["mobile-8", "mobile-16", "mobilenetv3-small-8", "mobilenetv3-small-16"]


def test_no_assistant_is_proposed_below_students_of_unknown_size(recipe):
    student = NetworkSpec(name="own", factory="m:net")
    assert propose_assistants(recipe, [student]) == ()
