"""``skd-edge crossval`` of a tiny set, killed on the way: which folds are run, what is reported, what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter

import pytest

from skd_bench.errors import UsageError
from skd_edge.cli.main import run
from skd_edge.pipeline.compress import compress
from skd_edge.pipeline.crossval.crossval import cross_validate
from skd_edge.recipe.loader import load_recipe
from skd_edge.report.crossval.schema import load_crossval

JOBS = ["--jobs", "1"]


def test_a_finished_fold_is_not_run_again_and_a_killed_one_goes_on(cross_validated):
    assert cross_validated.folds_before_kill == (1,)
    assert len(cross_validated.read_events("started", fold=1)) == 1
    assert len(cross_validated.read_events("started", fold=2)) == 2
    trained = Counter(str(e["job"]) for e in cross_validated.read_events("job_finished", fold=2))
    assert max(trained.values()) == 1  # no job of the killed start was trained twice


def test_every_clip_is_tested_once_and_no_group_is_in_two_splits(here):
    with (here.folder / "folds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 36
    assert len({(row["group"], row["fold"]) for row in rows}) == 6
    report = load_crossval(here.folder)
    answered: Counter[str] = Counter()
    for fold in report.folds:
        stored = json.loads((here.folder / fold.folder / "test_answers.json").read_text())
        answered.update(stored["clips"])
        assert {row["clip"] for row in rows if row["fold"] == str(fold.fold)} == set(stored["clips"])
        assert (fold.train, fold.val, fold.test) == (18, 6, 12)
    assert answered == Counter({row["clip"]: 1 for row in rows})


def test_the_pooled_figures_are_those_of_the_answers(here):
    report = load_crossval(here.folder)
    stored = [json.loads((here.folder / fold.folder / "test_answers.json").read_text()) for fold in report.folds]
    assert {row.role for row in report.pooled} == {"chosen", "teacher", "alone"}
    for row in report.pooled:
        correct = [a == b for each in stored for a, b in zip(each["answers"][row.role], each["labels"], strict=True)]
        assert row.n == len(correct) == 36
        assert row.accuracy == pytest.approx(sum(correct) / 36)
        assert row.balanced_accuracy == pytest.approx(row.accuracy)  # the classes have equally many clips
        assert row.accuracy_interval[0] <= row.accuracy <= row.accuracy_interval[1]
    assert sum(map(sum, report.confusion)) == 36
    assert [c.support for c in report.per_class] == [12, 12, 12]


def test_nothing_is_shipped_and_the_ledger_counts_one_look_for_each_fold(here):
    assert list(here.folder.rglob("bundle")) == []
    assert list(here.folder.rglob("manifest.json")) == []
    looks = [json.loads(line) for line in (here.home / "looks.jsonl").read_text().splitlines()]
    assert len(looks) == len({look["test"] for look in looks}) == 3
    assert [fold.looks for fold in load_crossval(here.folder).folds] == [1, 1, 1]
    page = (here.folder / "folds" / "1" / "report.md").read_text()
    assert page.startswith("# Fold 1 of 3 chooses small in FP32")
    assert "its network is not shipped" in page


def test_the_clips_are_decoded_once(here):
    assert len(list((here.home / "cache" / "stores").glob("*/store.json"))) == 1


def test_the_same_command_again_runs_no_fold_and_equal_figures_result(here, capsys):
    before, starts = load_crossval(here.folder), len(here.read_events("started", fold=2))
    assert run(["crossval", here.recipe, "--out", str(here.folder), *JOBS]) == 0
    assert "fold 2 of 3: finished before" in capsys.readouterr().err
    assert len(here.read_events("started", fold=2)) == starts
    assert load_crossval(here.folder).model_copy(update={"created": before.created}) == before


def test_report_writes_the_pages_again(here, capsys):
    (here.folder / "crossval.html").unlink()
    assert run(["report", str(here.folder)]) == 0
    assert str(here.folder / "crossval.html") in capsys.readouterr().out
    assert (here.folder / "crossval.html").exists()
    assert run(["report", str(here.folder), str(here.folder / "folds" / "1")]) == 1
    assert "is a cross-validation: its figures are in" in capsys.readouterr().err
    assert run(["report", *(str(here.folder / "folds" / fold) for fold in "12")]) == 0


def test_torchrun_is_refused_at_once(here, monkeypatch):
    """Without waiting for the other processes, which would never come."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(UsageError, match="crossval does not run under torchrun"):
        cross_validate(load_recipe(here.recipe), here.folder)


def test_a_fold_that_fails_does_not_stop_the_others_and_is_run_again(here, tmp_path, capsys):
    """A link in the folder of the second fold: a run refuses to write through it."""
    copy = shutil.copytree(here.folder, tmp_path / "copy")
    shutil.rmtree(copy / "folds" / "2")
    (copy / "folds" / "2").mkdir()
    (copy / "folds" / "2" / "strange").write_text("not of a run")
    assert run(["crossval", here.recipe, "--out", str(copy), *JOBS]) == 1
    assert "fold 2 failed: " in capsys.readouterr().out
    report = load_crossval(copy)
    assert [fold.state for fold in report.folds] == ["finished", "failed", "finished"]
    assert "is not empty and is not a run" in report.folds[1].reason
    assert {(row.folds, row.n) for row in report.pooled} == {(2, 24)}
    assert "1 of 3 folds failed" in (copy / "crossval.md").read_text()
    (copy / "folds" / "2" / "strange").unlink()
    result = cross_validate(load_recipe(here.recipe), copy)
    assert result.failed == {}
    assert [fold.state for fold in load_crossval(copy).folds] == ["finished"] * 3


@pytest.mark.parametrize(
    ("change", "where", "message"),
    [
        ("seed=1", "recipe.yaml:8: cross_validation: the folds are not those of", "choose another folder with --out"),
        ("cross_validation.folds=7", "--set cross_validation.folds=7: ", "6 groups (p0, p1, p2, p3, p4, ...) cannot"),
        ("cross_validation.fold=2", "--set cross_validation.fold=2: ", "crossval runs every fold"),
        (
            "cross_validation=null",
            "--set cross_validation=null: cross_validation: is missing",
            "{folds: 5, group: subject}",
        ),
    ],
)
def test_other_folds_are_refused_with_the_line_of_the_recipe(here, capsys, change, where, message):
    before = (here.folder / "folds.csv").read_bytes()
    assert run(["crossval", "recipe.yaml", "--out", str(here.folder), "--set", change]) == 2
    error = capsys.readouterr().err
    assert where in error
    assert message in error
    assert "Traceback" not in error
    assert (here.folder / "folds.csv").read_bytes() == before


def test_compress_and_choose_refuse_its_folder_and_crossval_that_of_a_run(here, tmp_path, capsys):
    with pytest.raises(UsageError, match="is a cross-validation, which ships nothing"):
        compress(load_recipe(here.recipe), here.folder)
    assert run(["choose", str(here.folder)]) == 2
    assert "is a cross-validation, which ships nothing" in capsys.readouterr().err
    assert run(["choose", str(here.folder / "folds" / "1"), "--confirm"]) == 2
    assert "ships nothing; leave --confirm out" in capsys.readouterr().err
    fold = shutil.copytree(here.folder / "folds" / "1", tmp_path / "run")
    with pytest.raises(UsageError, match="is a run of skd-edge compress"):
        cross_validate(load_recipe(here.recipe), fold)
