"""A budget that no candidate can meet is refused before any clip is rendered or decoded."""

from __future__ import annotations

import pytest

from skd_bench.errors import UserError
from skd_edge.pipeline.compress import compress
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import read_journal

TINY = {
    "name": "tiny",
    "data": {"kind": "generated", "train": 20, "val": 10, "test": 10, "frames": 4, "size": 16},
    "clip": {"frames": 4, "size": 16},
    "teacher": {"family": "resnet", "width": 4, "depths": [1]},
    "students": [{"name": "small", "width": 4, "depths": [1]}],
    "bench": {"processes": 1, "queries": 70},
    "choice": {"budget": "0.0001 ms"},
}


def test_no_clip_is_made_for_a_budget_nobody_meets(tmp_path, own_places):
    with pytest.raises(UserError, match=r"no candidate is within the budget.*small (fp32|int8), takes"):
        compress(Recipe.model_validate(TINY), tmp_path / "run")
    assert not (own_places / "stores").exists()
    assert not (own_places / "generated").exists()
    events = read_journal(tmp_path / "run")
    assert {e["name"] for e in events if e["event"] == "measured"} == {"teacher fp32", "small fp32", "small int8"}
    assert [e["student"] for e in events if e["event"] == "pruned"] == ["small"]
    assert not [e for e in events if e["event"] in ("clips", "job_started")]
