"""The plan of a cross-validation: nothing is written, and finished folds cost nothing."""

from __future__ import annotations

import shutil

import pytest

from skd_edge.cli.main import run
from skd_edge.pipeline.crossval.cost import CrossValidationPlan, plan_crossval
from skd_edge.pipeline.plan import Plan, PlannedJob
from skd_edge.recipe.loader import load_recipe


def make_plan(jobs: int, cached: int) -> Plan:
    rows = tuple(PlannedJob("h", "n", "student", i < cached, 10.0, 0.0) for i in range(jobs))
    return Plan("r", 100, True, rows, 5.0, 2.0, 1.0)


def test_further_folds_cost_what_the_first_does_without_its_cached_jobs():
    planned = CrossValidationPlan(2, make_plan(jobs=3, cached=1), left=3, folds=4, groups=8, clips=100)
    assert planned.seconds == pytest.approx(5 + 20 + 2 + 2 * (30 + 2))
    text = planned.to_text(hourly=36)
    assert text.startswith("4 folds of 100 clips in 8 groups; 3 folds are left")
    assert "cost: 0.910 at 36 an hour" in text


def test_a_dry_run_writes_nothing(here, tmp_path, capsys):
    assert run(["crossval", here.recipe, "--out", str(tmp_path / "new"), "--dry-run", "--quick"]) == 0
    printed = capsys.readouterr().out
    assert "3 folds of 36 clips in 6 groups; 3 folds are left" in printed
    assert "fold 1:" in printed
    assert not (tmp_path / "new").exists()


def test_finished_folds_are_left_out(here, tmp_path):
    copy = shutil.copytree(here.folder, tmp_path / "copy")
    (copy / "folds" / "2" / "test_answers.json").unlink()
    planned = plan_crossval(load_recipe(here.recipe), copy, quick=True)
    assert (planned.fold, planned.left) == (2, 1)
    assert plan_crossval(load_recipe(here.recipe), here.folder, quick=True).plan is None


def test_the_generated_set_is_not_rendered(tmp_path, own_places):
    (tmp_path / "r.yaml").write_text(
        "name: g\ndata: {kind: generated, train: 20, val: 10, test: 10}\nstudents: [{name: s}]\n"
        "cross_validation: {folds: 4}\n"
    )
    planned = plan_crossval(load_recipe(tmp_path / "r.yaml"), tmp_path / "out", quick=True)
    assert (planned.clips, planned.left) == (40, 4)
    assert not (own_places / "generated").exists()
