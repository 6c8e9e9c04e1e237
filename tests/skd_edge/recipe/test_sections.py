"""The smaller sections of a recipe: clips, runtimes and budgets."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from skd_edge.recipe.sections import BenchmarkSettings, ClipSettings, SelectionRule


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"segments": 2}, "clip.segments is for clip.sampling: segment, not uniform"),
        ({"segments": 3, "sampling": "segment"}, "clip.frames 8 cannot be divided into 3 equal parts"),
        ({"size": 33}, "multiple of 2"),
        ({"std": (0.2, 0.0, 0.2)}, "greater than 0"),
    ],
)
def test_invalid_clips_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        ClipSettings.model_validate(given)


def test_keys_of_clips_that_were_added_later_are_left_out_of_dumps_by_default():
    assert not {"segments", "decoder"} & ClipSettings().model_dump().keys()
    changed = ClipSettings(sampling="segment", segments=4, decoder="torchcodec").model_dump()
    assert (changed["segments"], changed["decoder"]) == (4, "torchcodec")


def test_one_runtime_is_short_for_a_list_of_one():
    assert BenchmarkSettings(runtime="ort") == BenchmarkSettings(runtime=["ort"]) == BenchmarkSettings()
    for wrong in ([], ["ort", "ort"], "tflite"):
        with pytest.raises(ValidationError, match="runtime"):
            BenchmarkSettings(runtime=wrong)


@pytest.mark.parametrize("host", ["-oProxyCommand=x", "a b", "a;b", ""])
def test_a_host_cannot_be_an_option_or_a_command(host):
    assert BenchmarkSettings(host="pi@board.local").host == "pi@board.local"
    with pytest.raises(ValidationError, match="host"):
        BenchmarkSettings(host=host)


@pytest.mark.parametrize(
    ("budget", "milliseconds", "is_relative"),
    [("8 ms", 8.0, False), ("2.5ms", 2.5, False), ("0.5 x teacher", 10.0, True), (" 2xteacher ", 40.0, True)],
)
def test_a_budget_is_in_milliseconds_or_relative_to_the_teacher(budget, milliseconds, is_relative):
    rule = SelectionRule(budget=budget)
    assert rule.budget_ms(20.0) == milliseconds
    assert rule.has_relative_budget == is_relative


def test_no_budget_is_no_limit():
    assert SelectionRule().budget_ms(20.0) is None
    assert not SelectionRule().has_relative_budget


@pytest.mark.parametrize("budget", ["8", "0 ms", "8 s", "-1 ms", "x teacher", "8 ms or so", ""])
def test_other_budgets_are_refused(budget):
    with pytest.raises(ValidationError, match=r"a budget has the form '8 ms' or '0\.5 x teacher'"):
        SelectionRule(budget=budget)
