"""The section labels: rules, models, and which of its settings are part of a job's hash."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from skd_edge.recipe.labels import KeywordRule, LabelSettings, ModelAnnotator, NoiseSettings, has_word_character

RULE = {"label": "wave", "any": ["waving"]}


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (KeywordRule, {"label": "wave"}, "a rule needs keywords: give any, all, or both"),
        (KeywordRule, {"label": "wave", "none": ["sit"]}, "a rule needs keywords"),
        (KeywordRule, RULE | {"none": ["?!"]}, r"the keyword '\?!' contains no letter or digit"),
        (ModelAnnotator, {"name": "m"}, "the model 'm' needs exactly one of table, bundle and onnx"),
        (ModelAnnotator, {"name": "m", "table": "t", "onnx": "o"}, "exactly one of"),
        (ModelAnnotator, {"name": "m", "table": "t", "classes": ["a"]}, "classes is for onnx only"),
        (LabelSettings, {"models": [{"name": "m", "table": t} for t in "ab"]}, "two models have the name 'm'"),
    ],
)
def test_invalid_settings_are_refused(model, given, message):
    with pytest.raises(ValidationError, match=message):
        model.model_validate(given)


@pytest.mark.parametrize(
    ("keyword", "expected"), [("wav*", True), ("7", True), ("ü", True), ("?!", False), ("", False)]
)
def test_a_keyword_needs_a_letter_or_digit(keyword, expected):
    assert has_word_character(keyword) == expected


@pytest.mark.parametrize("given", [{"rules": [RULE]}, {"models": [{"name": "m", "table": "t"}]}, {"trusted": "t.csv"}])
def test_rules_models_and_checked_labels_are_external_sources(given):
    assert LabelSettings.model_validate(given).has_external_sources
    assert not LabelSettings().has_external_sources
    assert not LabelSettings(metadata="m.csv").has_external_sources


def test_the_sources_of_labels_are_not_part_of_the_pseudo_label_settings():
    plain = LabelSettings().pseudo_label_settings
    sources = {"noise": NoiseSettings(kind="symmetric", rate=0.4), "rules": (KeywordRule(**RULE),), "trusted": "t.csv"}
    assert LabelSettings(**sources).pseudo_label_settings == plain
    for change in ({"method": "soft"}, {"folds": 3}, {"optimise": False}, {"aggregate": "majority"}):
        assert LabelSettings(**change).pseudo_label_settings == plain | change
