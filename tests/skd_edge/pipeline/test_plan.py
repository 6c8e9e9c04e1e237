"""Plans: which jobs a run has, what is left to do, and how this is printed."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import yaml

from skd_bench.benchmark import latency
from skd_bench.errors import UsageError
from skd_edge.pipeline import plan as module
from skd_edge.pipeline.plan import Plan, PlannedJob, _estimate_measurement_seconds, plan
from skd_edge.recipe.loader import load_recipe
from skd_edge.recipe.schema import Recipe
from skd_edge.schedule.candidates import list_candidates


def test_plan_counts_every_runtime(own_places, two_runtimes, without_choice):
    one = Recipe.model_validate(without_choice | {"bench": two_runtimes["bench"] | {"runtime": "ort"}})
    two = Recipe.model_validate(without_choice)
    assert [c.name for c in list_candidates(one)] == [f"teacher>small {p}" for p in ("fp32", "fp16", "int8")]
    plan_for_one, plan_for_two = plan(one), plan(two)
    assert plan_for_two.measurement_seconds > plan_for_one.measurement_seconds
    assert [job.name for job in plan_for_two.jobs] == [job.name for job in plan_for_one.jobs]
    assert (
        _estimate_measurement_seconds(Recipe.model_validate(two_runtimes))
        > plan_for_two.measurement_seconds + 10 * latency.ENERGY_S
    )


@pytest.mark.parametrize("quick", [False, True])
def test_a_pipe_in_the_run_folder_is_refused(own_places, without_choice, tmp_path, quick):
    """The run folder may be a stranger's; reading the pipe would never end."""
    job = tmp_path / "run" / "jobs" / "x"
    job.mkdir(parents=True)
    os.mkfifo(job / "job.json")
    with pytest.raises(UsageError, match=r"job\.json is a device, a pipe or a socket"):
        plan(Recipe.model_validate(without_choice), tmp_path / "run", quick=quick)


def test_engines_cost_their_compilation_and_the_floors_of_a_gpu(without_choice):
    benches = [{"runtime": "ort"}, {"runtime": "tensorrt"}, {"runtime": "tensorrt", "seconds": 10.0}]
    recipes = [Recipe.model_validate(without_choice | {"bench": {"processes": 2, **bench}}) for bench in benches]
    on_cpu, engines, longer = map(_estimate_measurement_seconds, recipes)
    files = len(list_candidates(recipes[0])) * 2 + 2
    assert engines - on_cpu > 10 * files
    assert longer - engines == pytest.approx(2 * 9.0 * files)


JOBS = (
    PlannedJob("0123456789abcdef", "teacher", "teacher", True, 10.0, 1.0),
    PlannedJob("fedcba9876543210", "teacher>small", "student", False, 20.0, 0.5),
    PlannedJob(None, "teacher>large", "student", False, 70.0, 2.0, pruned=True),
)
PLAN = Plan("some", 100, True, JOBS, 1.0, 2.0, 30.0)


def test_cached_jobs_and_jobs_over_the_budget_cost_nothing():
    assert PLAN.training_seconds == 20.0
    assert PLAN.seconds == 23.0


def test_successive_halving_is_limited_by_its_share_of_all_jobs():
    halving = replace(PLAN, uses_successive_halving=True, share=0.5)
    assert halving.training_seconds == 0.5 * (10.0 + 20.0)
    assert replace(halving, share=0.0).training_seconds == 20.0
    assert replace(halving, share=0.9).training_seconds == 20.0  # no more than what is left
    assert "at most 50% of their seconds" in halving.to_text()
    assert "the estimate counts all of them" in replace(halving, share=0.0).to_text()


def test_jobs_beside_each_other_take_as_long_as_their_longest_chain():
    """A teacher (10 s), then two students (20 s and 30 s), and a control without a teacher (25 s)."""
    teacher, control = (
        PlannedJob("a", "t", "teacher", False, 10.0, 1.0),
        PlannedJob("d", "c", "alone", False, 25.0, 1.0),
    )
    students = [
        PlannedJob(h, "s", "student", False, seconds, 1.0, requires=(0,)) for h, seconds in (("b", 20), ("c", 30))
    ]
    whole = replace(PLAN, jobs=(teacher, *students, control))
    assert whole.training_seconds == 85.0
    assert replace(whole, parallel_jobs=2).training_seconds == 10 + 20 + 25
    assert replace(whole, parallel_jobs=3).training_seconds == 10 + 30
    cached = replace(whole, jobs=(replace(teacher, cached=True), *students, control), parallel_jobs=3)
    assert cached.training_seconds == 30


def test_a_quick_plan_runs_nothing_and_uses_the_paces_of_finished_jobs(finished, monkeypatch):
    monkeypatch.setattr(module, "time_jobs", lambda *a, **k: pytest.fail("a step was trained"))
    monkeypatch.setattr(module, "_measure_fastest", lambda *a, **k: pytest.fail("a network was timed"))
    recipe = load_recipe(str(finished.recipe), ["seed=5"])
    unknown = plan(recipe, quick=True)  # an empty cache
    assert "No job was trained on this device yet" in unknown.to_text()
    monkeypatch.setenv("SKD_EDGE_CACHE", str(finished.cache))
    known = plan(load_recipe(str(finished.recipe)), quick=True, most_jobs=1)
    assert "No job was trained on this device yet" not in known.to_text()
    assert all(job.seconds > 0 for job in (*known.jobs, *unknown.jobs))
    trained = {row["job"]: row["seconds"] for row in finished.report["jobs"] if row["state"] != "pruned"}
    ratio = sum(job.seconds for job in known.jobs if job.hash in trained) / sum(trained.values())
    assert 0.3 < ratio < 3  # of seconds that a busy machine changes


def test_a_quick_plan_proposes_networks_without_timing_them(own_places, without_choice, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_measure_fastest", lambda *a, **k: pytest.fail("a network was timed"))
    changed = {"students": "auto", "teacher": {"family": "resnet", "width": 8}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(without_choice | changed), encoding="utf-8")
    planned = plan(load_recipe(str(tmp_path / "recipe.yaml")), quick=True)
    assert {job.role for job in planned.jobs} >= {"teacher", "student"}


def test_the_text_shows_the_state_of_every_job():
    header, _, teacher, small, large, *_ = PLAN.to_text().splitlines()
    assert header == "some: 100 clips, 3 jobs (1 cached)"
    assert "cached" in teacher
    assert "~20 s" in small
    assert "over budget?" in large
    assert "not named yet" in large
    assert "cost" not in PLAN.to_text()


def test_the_cost_is_that_of_the_seconds_that_are_left():
    text = PLAN.to_text(hourly=3600.0)
    assert text.splitlines()[-1].split() == ["cost:", "23.000", "at", "3600", "an", "hour"]
    assert "20.000" in text


def test_jobs_of_a_finished_run_are_cached(finished, monkeypatch):
    monkeypatch.setenv("SKD_EDGE_CACHE", str(finished.cache))
    planned = plan(load_recipe(str(finished.recipe)), finished.folder)
    assert planned.is_decoded
    assert planned.data_seconds == 0.0
    trained = {row["job"] for row in finished.report["jobs"] if row["state"] != "pruned"}
    assert {job.hash for job in planned.jobs if job.cached} == trained
    assert {job.name.split(">")[-1] for job in planned.jobs if job.pruned} <= {"large"}


def test_without_clips_jobs_have_no_hash(finished):
    planned = plan(load_recipe(str(finished.recipe)), finished.folder)
    assert not planned.is_decoded
    assert planned.data_seconds > 0
    assert {job.hash for job in planned.jobs} == {None}
    assert not any(job.cached for job in planned.jobs)
    assert "The clips are not decoded yet" in planned.to_text()


@pytest.mark.parametrize(("key", "larger"), [("queries", 2000), ("processes", 5)])
def test_more_queries_take_longer(key, larger, two_runtimes, without_choice):
    few = Recipe.model_validate(without_choice)
    many = Recipe.model_validate(without_choice | {"bench": two_runtimes["bench"] | {key: larger}})
    assert _estimate_measurement_seconds(many) > _estimate_measurement_seconds(few)


def test_copies_across_splits_are_printed():
    assert "warning" not in PLAN.to_text()
    assert "  warning: 1 val clips are copies" in replace(PLAN, copies=("1 val clips are copies",)).to_text()
