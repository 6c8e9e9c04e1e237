"""The part of docs/results.md about real footage: its tables come from stored figures."""

from __future__ import annotations

import json

import pytest

BALANCED = {
    "last": ([0.7, 0.6, 0.8], [0.01, -0.02, 0.04]),
    "best": ([0.69, 0.6, 0.8], [0.0, 0.0, 0.0]),
    "smoothed": ([0.74, 0.65, 0.85], [0.05, 0.01, 0.09]),
    "averaged": ([0.6, 0.5, 0.7], [-0.09, -0.15, -0.02]),
}


def make_study(**minus_best):
    rules = {
        rule: {
            "accuracy": [0.8, 0.7, 0.9],
            "balanced": value,
            "optimism_points": 1.5,
            "minus_best": {"balanced": minus_best.get(rule, change)},
        }
        for rule, (value, change) in BALANCED.items()
    }
    return {"trainings": 10, "seeds": [0, 1], "clips": 316, "sequences": 20, "minutes": 12.3, "rules": rules}


def test_without_stored_figures_the_sets_and_commands_are_there(tmp_path):
    from bench.suites.method.real_footage import format_real_footage

    text = format_real_footage(tmp_path)
    assert text.startswith("# Results\n\n## Real footage\n")
    assert "skd-edge crossval recipes/camera_ut.yaml" in text
    assert "###" not in text


def test_the_rules_are_a_table_that_says_what_is_shown(tmp_path):
    from bench.suites.method.real_footage import format_real_footage

    (tmp_path / "weight_selection.json").write_text(json.dumps(make_study()), encoding="utf-8")
    text = format_real_footage(tmp_path)
    assert "10 trainings" in text
    assert "(2 seeds, 5 folds)" in text
    assert "| smoothed | 74.0 [65.0, 85.0] | +5.0 [+1.0, +9.0] | 80.0 | +1.5 |" in text
    assert "| best | 69.0 [60.0, 80.0] | – | 80.0 | +1.5 |" in text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {},
            "`smoothed` shown to be better than `best`; `averaged` shown to be worse than `best`; "
            "the default is `best`.",
        ),
        (
            {"smoothed": [0.05, -0.01, 0.1], "averaged": [-0.01, -0.1, 0.1]},
            "No rule is shown to differ from `best`, which stays the default.",
        ),
    ],
)
def test_a_rule_is_better_only_if_its_interval_excludes_0(changes, sentence):
    from bench.suites.method.real_footage import conclude_selection

    assert conclude_selection(make_study(**changes)) == sentence


def test_a_cross_validation_is_a_table(tmp_path):
    from bench.suites.method.real_footage import format_real_footage

    score = {
        "role": "chosen",
        "folds": 5,
        "n": 316,
        "accuracy": 0.9,
        "accuracy_interval": [0.85, 0.95],
        "balanced_accuracy": 0.8,
        "balanced_interval": [0.7, 0.9],
        "macro_f1": 0.81,
        "macro_f1_interval": [0.71, 0.91],
    }
    report = {
        "schema": 1,
        "kind": "crossval",
        "name": "camera_ut",
        "created": "2026-11-30T19:00:00Z",
        "version": "0.1.0",
        "seed": 0,
        "group": "subject",
        "groups": 20,
        "clips": 316,
        "classes": ["a", "b"],
        "pooled": [score],
        "folds": [],
    }
    (tmp_path / "crossval_camera_ut.json").write_text(json.dumps(report), encoding="utf-8")
    text = format_real_footage(tmp_path)
    assert "### camera_ut, seed 0" in text
    assert (
        "| skd-edge: the file chosen in each fold | 80.0 [70.0, 90.0] | 90.0 [85.0, 95.0] | 81.0 [71.0, 91.0] |" in text
    )
