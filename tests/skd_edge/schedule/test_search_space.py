"""``students: auto``: what is weighed, and which handful is kept."""

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


def test_auto_is_read_and_written(recipe, tmp_path):
    assert recipe.students == recipe.assistants == ()
    assert recipe.auto == ("students", "assistants")
    assert recipe.uses_successive_halving
    (tmp_path / "again.yaml").write_text(resolved_yaml(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe


@pytest.mark.parametrize(
    ("text", "said"),
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
def test_a_space_that_cannot_be_is_refused(tmp_path, text, said):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UsageError, match=said):
        load_recipe(tmp_path / "recipe.yaml")


def test_kept_students_are_tried_in_every_way(tmp_path):
    ways = "space: {ways: {graft: {combination: graft}, far: {match: [4], losses: {distribution: 1}}}}\n"
    (tmp_path / "recipe.yaml").write_text(TEXT + ways)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    kept = build_network_grid(recipe)[:2]
    whole = resolve_auto(recipe, kept)
    assert [s.name for s in whole.students] == [
        *(n.name for n in kept),
        *(f"{n.name}-{way}" for n in kept for way in ("graft", "far")),
    ]
    assert len(set(whole.same_architecture.values())) == 2
    assert whole.training_of(whole.students[3]).match == (4,)
    assert restore_proposal(recipe, [s.name for s in whole.students]) == whole
    (tmp_path / "again.yaml").write_text(resolved_yaml(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe


def test_networks_with_a_view_of_their_own_are_not_grafted(tmp_path):
    (tmp_path / "recipe.yaml").write_text(TEXT + "space: {ways: {graft: {combination: graft}}}\n")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    grafted = [s for s in resolve_auto(recipe, build_network_grid(recipe)).students if s.training]
    assert any(n.frames for n in build_network_grid(recipe))
    assert len(grafted) == sum(not (n.frames or n.size) for n in build_network_grid(recipe))


def test_a_proposed_assistant_may_not_be_called_as_a_student_is(recipe):
    kept = [build_network_grid(recipe)[0]]
    (name, *_) = [a.name for a in resolve_auto(recipe, kept).assistants]
    with pytest.raises(UserError, match=f"two networks are called '{name}'"):
        resolve_auto(recipe, [kept[0].model_copy(update={"name": name})])


def test_the_grid_has_every_width_of_every_kind_and_one_change_at_a_time(recipe):
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
def test_the_handful_is_within_the_budget_and_holds_both_ends(times, budget, keep):
    networks = {
        f"n{i}": NetworkSpec(name=f"n{i}", width=4 + i % 7, temporal="shift" if i % 3 else "conv")
        for i in range(len(times))
    }
    p50 = {f"n{i}": t for i, t in enumerate(times)}
    kept = shortlist_networks(networks, p50, budget, keep)
    within = [t for t in times if budget is None or t <= budget]
    got = [p50[n.name] for n in kept]
    assert len({n.name for n in kept}) == len(kept) == min(keep, len(within))
    assert got == sorted(got)
    assert set(got) <= set(within)


def test_the_handful_spreads_over_milliseconds_and_kinds():
    networks = {
        f"{t}{w}": NetworkSpec(name=f"{t}{w}", width=w, temporal=t) for w in (4, 8, 16, 32) for t in ("conv", "shift")
    }
    p50 = {name: n.width / 4 * (1.02 if n.temporal == "shift" else 1) for name, n in networks.items()}
    kept = shortlist_networks(networks, p50, None, 4)
    assert [n.width for n in kept] == [4, 8, 16, 32]
    assert {n.temporal for n in kept} == {"conv", "shift"}


def test_assistants_lie_between_teacher_and_students(recipe):
    found = propose_assistants(recipe, [NetworkSpec(name="s", width=8)])
    assert [a.width for a in found] == [20, 12]
    assert all(a.family == "resnet" for a in found)
    assert propose_assistants(recipe, [NetworkSpec(name="s", width=30)]) == ()


def test_fewer_frames_and_a_smaller_image(recipe):
    plain = build_network(NetworkSpec(name="a", width=4), classes=3, clip=recipe.clip, seed=0)
    small = build_network(NetworkSpec(name="b", width=4, frames=4, size=16), classes=3, clip=recipe.clip, seed=0)
    clip = torch.randn(2, 3, 8, 32, 32)
    features = small(clip).features
    assert [f.shape[1] for f in features] == [4] * 4
    # What it looks at: every second frame from the second on, 2x2 pixels averaged.
    seen = torch.nn.functional.avg_pool3d(clip[:, :, 1::2], (1, 2, 2))
    own = build_network(
        NetworkSpec(name="c", width=4), classes=3, clip=recipe.clip.model_copy(update={"frames": 4, "size": 16}), seed=0
    )
    own.load_state_dict(small.state_dict())
    small.eval(), own.eval()
    torch.testing.assert_close(small(clip).logits, own(seen).logits)
    assert plain(clip).features[0].shape[1] == 8


def test_unset_frames_and_size_name_no_job_anew():
    assert "frames" not in NetworkSpec(name="a").architecture
    assert NetworkSpec(name="a", frames=4).architecture["frames"] == 4
