"""The section training: what a learner may change."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from skd_edge.recipe.training import LossOverrides, LossSettings, TrainingOverrides, TrainingSettings


def test_no_overrides_change_nothing():
    training = TrainingSettings(rate=0.01, losses=LossSettings(logits=0.5))
    assert TrainingOverrides().apply_to(training) == training


def test_overrides_change_only_what_they_name():
    training = TrainingSettings(rate=0.01, match=(1, 2), losses=LossSettings(logits=0.5, correlation=3.0))
    changed = TrainingOverrides(combination="graft", dense=0.5, losses=LossOverrides(logits=0.0)).apply_to(training)
    assert changed.combination == "graft"
    assert changed.dense == 0.5
    assert changed.losses == LossSettings(logits=0.0, correlation=3.0)
    assert changed.model_dump(exclude={"combination", "dense", "losses"}) == training.model_dump(
        exclude={"combination", "dense", "losses"}
    )
    assert training.losses.logits == 0.5  # the recipe's own settings stay as they are


def test_every_override_is_a_setting_of_the_recipe():
    assert TrainingOverrides.model_fields.keys() <= TrainingSettings.model_fields.keys()
    assert LossOverrides.model_fields.keys() == LossSettings.model_fields.keys()


@pytest.mark.parametrize("given", [{"epochs": 3}, {"rate": 0.1}, {"batch": 8}])
def test_a_learner_cannot_change_the_schedule(given):
    with pytest.raises(ValidationError, match="Extra inputs"):
        TrainingOverrides.model_validate(given)


@pytest.mark.parametrize("given", [{"rate": 0}, {"batch": 1}, {"match": [0]}, {"losses": {"temperature": 0}}])
def test_values_out_of_range_are_refused(given):
    with pytest.raises(ValidationError):
        TrainingSettings.model_validate(given)


def test_a_key_that_was_added_later_is_left_out_of_dumps_by_default():
    assert "balance" not in TrainingSettings().model_dump()
    assert TrainingSettings(balance=0.5).model_dump()["balance"] == 0.5
