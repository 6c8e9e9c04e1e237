"""The answers of a fold: read back, and not taken for those of other settings or of a damaged file."""

from __future__ import annotations

import shutil

from skd_edge.pipeline.crossval.crossval import make_fold_recipe
from skd_edge.pipeline.crossval.fold_answers import read_fold_answers
from skd_edge.recipe.loader import load_recipe


def test_they_are_those_of_one_fold_with_one_recipe(here, tmp_path, caplog):
    recipe, folder = load_recipe(here.recipe), here.folder / "folds" / "2"
    answers = read_fold_answers(folder, make_fold_recipe(recipe, 2))
    assert answers is not None
    assert len(answers.clips) == len(answers.labels) == 12
    assert {len(each) for each in answers.answers.values()} == {12}
    assert read_fold_answers(folder, make_fold_recipe(recipe, 1)) is None
    other = load_recipe(here.recipe, ["training.epochs=3"])
    assert read_fold_answers(folder, make_fold_recipe(other, 2)) is None
    assert read_fold_answers(tmp_path, make_fold_recipe(recipe, 2)) is None
    assert not caplog.records


def test_a_damaged_file_or_another_report_means_that_the_fold_is_run_again(here, tmp_path, caplog):
    recipe = make_fold_recipe(load_recipe(here.recipe), 1)
    copy = shutil.copytree(here.folder / "folds" / "1", tmp_path / "1")
    assert read_fold_answers(copy, recipe) is not None
    file = copy / "test_answers.json"
    file.write_text(file.read_text().replace("p0", "p9").replace("p1", "p8").replace("p3", "p7"))
    assert read_fold_answers(copy, recipe) is None
    assert "the fold is run again" in caplog.text
    shutil.copy(here.folder / "folds" / "1" / "test_answers.json", file)
    (copy / "report.json").write_text("{}")
    assert read_fold_answers(copy, recipe) is None
