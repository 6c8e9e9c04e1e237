"""The section ``cross_validation``: what is refused, with the line of the recipe; and where a setting is written."""

from __future__ import annotations

import pytest

from skd_bench.errors import UsageError
from skd_edge.recipe.loader import load_recipe, locate_setting, resolved_yaml

TABLE = """\
name: r
data:
  kind: csv
  root: videos
  train: {split: [train]}
  val: {split: [val]}
  test: {split: [test]}
students: [{name: s}]
"""


def written(tmp_path, *lines: str, base: str = TABLE) -> str:
    file = tmp_path / "r.yaml"
    file.write_text(base + "\n".join(lines) + "\n")
    return str(file)


def test_it_is_read_and_written_again(tmp_path):
    recipe = load_recipe(written(tmp_path, "cross_validation: {folds: 3, group: person}"))
    assert recipe.fold is None
    (tmp_path / "again.yaml").write_text(resolved_yaml(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe
    assert load_recipe(written(tmp_path, "cross_validation: {group: person, fold: 2}")).fold == 2


@pytest.mark.parametrize(
    ("lines", "line", "message"),
    [
        (["cross_validation: {folds: 3}"], 9, "cross_validation.group is missing: .* name a column of the table"),
        (["cross_validation: {folds: 1, group: p}"], 9, "cross_validation.folds: 1 cannot be used: .* equal to 2"),
        (["cross_validation: {folds: 3, group: p, fold: 4}"], 9, "cross_validation.fold is 4, but there are 3 folds"),
        (
            ["cross_validation:", "  group: p", "labels: {rules: [{label: a, any: [x]}]}"],
            11,
            "with labels.rules the labels of the training clips are not checked; set cross_validation.score to checked",
        ),
        (["cross_validation: {group: p}", "labels: {trusted: t.csv}"], 10, "with labels.trusted the labels"),
    ],
)
def test_mistakes_have_the_line_of_the_recipe(tmp_path, lines, line, message):
    with pytest.raises(UsageError, match=message) as error:
        load_recipe(written(tmp_path, *lines))
    assert f"r.yaml:{line}: " in str(error.value)


@pytest.mark.parametrize(
    ("data", "lines", "message"),
    [
        ("{kind: folder, root: v}", "{folds: 3}", "group is missing: .* name a pattern in the clips' names"),
        ("{kind: folder, root: v}", "{group: 'p('}", r"cross_validation.group: 'p\(' is not a valid regular"),
        ("{kind: folder, root: v}", "{group: p, score: checked}", "these are shares of data.root"),
        ("{kind: folder, val_root: v, unlabelled: u}", "{group: p}", "with data.unlabelled"),
        ("{kind: generated}", "{group: p}", "clips of data.kind generated have groups of their own"),
    ],
)
def test_other_kinds_of_data(tmp_path, data, lines, message):
    base = f"name: r\ndata: {data}\nstudents: [{{name: s}}]\n"
    with pytest.raises(UsageError, match=message):
        load_recipe(written(tmp_path, f"cross_validation: {lines}", base=base))


def test_kinds_with_groups_of_their_own_need_none(tmp_path):
    base = "name: r\ndata: {kind: ucf101, root: v, splits: s}\nstudents: [{name: s}]\n"
    assert load_recipe(written(tmp_path, "cross_validation: {folds: 3}", base=base)).cross_validation.group is None


def test_where_a_setting_is_written(tmp_path, monkeypatch):
    file = written(tmp_path, "cross_validation:", "  folds: 3", "  group: person")
    monkeypatch.chdir(tmp_path)
    assert locate_setting(file, (), "cross_validation.folds").endswith("r.yaml:10")
    assert locate_setting("r.yaml", (), "cross_validation.val") == "r.yaml:9"
    assert locate_setting("r.yaml", ["cross_validation.folds=4"], "cross_validation.folds").startswith("--set ")
