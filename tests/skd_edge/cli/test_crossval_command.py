"""The command ``crossval``: what it prints before any fold runs; tests/skd_edge/pipeline/crossval runs folds."""

from __future__ import annotations

from skd_edge.cli.main import run

LOADING = "loading torch, a few seconds (longer the first time)"


def test_a_wrong_recipe_is_exit_code_2(recipe, capsys):
    assert run(["crossval", recipe, "--set", "cross_validation.folds=many"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"crossval {recipe}: {LOADING}\nskd-edge: error: --set cross_validation.folds=many: ")
    assert "Traceback" not in error


def test_a_recipe_without_the_section_is_refused_with_its_line(recipe, capsys):
    assert run(["crossval", recipe]) == 2
    assert "r.yaml:1: cross_validation: is missing; add it, such as cross_validation: {" in capsys.readouterr().err


def test_too_many_folds_are_refused_before_anything_is_written(recipe, capsys, tmp_path):
    data = "data={kind: generated, train: 20, val: 10, test: 10, frames: 4, size: 16}"
    sets = ["--set", data, "--set", "cross_validation={folds: 90}"]
    assert run(["crossval", recipe, *sets, "--out", "folds"]) == 2
    assert "--set cross_validation={folds: 90}: cross_validation.folds: 40 groups" in capsys.readouterr().err
    assert not (tmp_path / "folds").exists()
