"""What could be deployed, and what is dropped before any training."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.recipe import Recipe
from skd_edge.schedule.candidates import affordable, candidates

RECIPE = Recipe.model_validate(
    {
        "name": "r",
        "data": {"kind": "generated"},
        "assistants": [{"name": "a", "family": "resnet", "width": 16}],
        "students": [{"name": "s1", "width": 8}, {"name": "s2", "width": 12}],
    }
)


def test_every_path_of_every_student_at_every_precision():
    found = candidates(RECIPE)
    assert len({c.name for c in found}) == len(found) == 8
    assert {c.name for c in found if c.student == "s1"} == {
        "teacher>s1 fp32", "teacher>s1 int8", "teacher>a>s1 fp32", "teacher>a>s1 int8",
    }  # fmt: skip
    assert all(c.path[0] == "teacher" and c.path[-1] == c.student and c.runtime == "ort" for c in found)


@settings(max_examples=40, deadline=None)
@given(times=st.lists(st.floats(0.1, 10), min_size=4, max_size=4), budget=st.none() | st.floats(0.1, 10))
def test_a_student_stays_with_one_precision_within_the_budget(times, budget):
    p50 = dict(zip(("s1 fp32", "s1 int8", "s2 fp32", "s2 int8"), times, strict=True))
    keep, out = affordable(RECIPE, p50, budget)
    for student in RECIPE.students:
        fastest = min(p50[f"{student.name} fp32"], p50[f"{student.name} int8"])
        assert (student in keep) == (budget is None or fastest <= budget)
        assert (student.name in out) == (student not in keep)
    assert all("never trained" in reason and "over the budget" in reason for reason in out.values())
