"""Candidates are measured with random weights first: an impossible budget is an error before any clip is made."""

from __future__ import annotations

import pytest

from skd_bench.errors import UserError
from skd_edge.pipeline.compress import compress
from skd_edge.pipeline.stages.benchmark_untrained import UntrainedMeasurements, apply_budget, measure_untrained
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


def test_no_clip_is_made_for_a_budget_that_no_candidate_meets(tmp_path, own_places):
    with pytest.raises(UserError, match=r"no candidate is within the budget.*small (fp32|int8), takes"):
        compress(Recipe.model_validate(TINY), tmp_path / "run")
    assert not (own_places / "stores").exists()
    assert not (own_places / "generated").exists()
    events = read_journal(tmp_path / "run")
    assert {e["name"] for e in events if e["event"] == "measured"} == {"teacher fp32", "small fp32", "small int8"}
    assert [e["student"] for e in events if e["event"] == "pruned"] == ["small"]
    assert not [e for e in events if e["event"] in ("clips", "job_started")]


def test_the_budget_splits_the_students(stage_results):
    benchmark = stage_results.benchmark
    assert [student.name for student in benchmark.students] == ["small"]
    assert list(benchmark.dropped) == ["large"]
    assert benchmark.budget_ms == 4 * benchmark.p50_ms["teacher fp32"]


def with_choice(results, **changes):
    """What another choice leaves of the same measurements."""
    recipe, benchmark = results.benchmark.recipe, results.benchmark
    changed = recipe.model_copy(update={"choice": recipe.choice.model_copy(update=changes)})
    measured = UntrainedMeasurements(dict(benchmark.latency), dict(benchmark.megabytes), dict(benchmark.unrunnable))
    return apply_budget(changed, measured)


def test_without_a_budget_no_student_is_dropped(stage_results):
    benchmark = with_choice(stage_results, budget=None)
    assert benchmark.budget_ms is None
    assert {student.name for student in benchmark.students} == {"small", "large"}
    assert benchmark.dropped == {}


def test_a_budget_in_milliseconds_does_not_depend_on_the_teacher(stage_results):
    assert with_choice(stage_results, budget="1000 ms").budget_ms == 1000.0
    assert with_choice(stage_results, budget="1000 ms").dropped == {}
    assert len(with_choice(stage_results, budget="0.000001 ms").dropped) == 2


def test_a_limit_of_megabytes_drops_students_before_they_are_trained(stage_results):
    smallest = min(size for name, size in stage_results.benchmark.megabytes.items() if name.startswith("large"))
    assert "large" in with_choice(stage_results, budget="1000 ms", max_megabytes=0.99 * smallest).dropped


def test_files_are_measured_once_with_random_weights(stage_results):
    before = len(read_journal(stage_results.ctx.run.folder))
    again = measure_untrained(stage_results.ctx, stage_results.benchmark.recipe)
    assert {name: one.samples_ms for name, one in again.latency.items()} == {
        name: one.samples_ms for name, one in stage_results.benchmark.latency.items()
    }
    news = read_journal(stage_results.ctx.run.folder)[before:]
    assert {e["weights"] for e in news} == {"random"}
