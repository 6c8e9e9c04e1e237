"""The hash of a job: every setting that affects the result changes it; names and roles do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from skd_edge.distill.job import JobSpec, json_digest
from skd_edge.recipe.schema import LossSettings, NetworkSpec, Teacher, TrainingSettings
from skd_edge.recipe.sections import AugmentationSettings, ClipSettings

JOB = JobSpec(
    learner=NetworkSpec(name="n", width=8),
    role="student",
    path=("t", "n"),
    teacher="abc",
    start=None,
    targets="weak",
    data="data",
    classes=4,
    clip=ClipSettings(),
    augment=AugmentationSettings(),
    training=TrainingSettings(),
    epochs=3,
    weak=False,
    staged=True,
    seed=0,
)

MATTERS = {
    "teacher": "other",
    "start": "abc",
    "targets": "pseudo",
    "data": "other",
    "classes": 5,
    "epochs": 4,
    "weak": True,
    "staged": False,
    "seed": 1,
}
OTHER = {
    "clip": ClipSettings(frames=7, size=48, sampling="dense", stride=5, fit="pad", mean=(0.1,) * 3, std=(0.5,) * 3),
    "augment": AugmentationSettings(shift=9, brightness=0.3, contrast=0.3, flip=True, views=3, mixup=0.3),
    "training": TrainingSettings(
        batch=7,
        rate=0.1,
        weight_decay=0.3,
        ema=0.5,
        prefix=0.1,
        elr=1.0,
        losses=LossSettings(labels=9),
        combination="graft",
        match=(1, 2),
        dense=0.5,
    ),
    "learner": NetworkSpec(name="n", family="resnet", width=9, depths=(2, 1), temporal="shift", expand=3),
}


@pytest.mark.parametrize("field", MATTERS)
def test_every_field_that_affects_the_result_changes_the_hash(field):
    assert replace(JOB, **{field: MATTERS[field]}).hash != JOB.hash


@pytest.mark.parametrize(
    ("part", "field"), [(p, f) for p, model in OTHER.items() for f in sorted(model.model_fields_set - {"name"})]
)
def test_every_setting_of_a_section_changes_the_hash(part, field):
    job = replace(JOB, weak=True)  # a job that is affected by all settings
    changed = getattr(job, part).model_copy(update={field: getattr(OTHER[part], field)})
    assert replace(job, **{part: changed}).hash != job.hash


def test_settings_without_effect_on_a_job_do_not_change_its_hash():
    """Without a teacher, settings of distillation have no effect; without weak labels, that of early learning."""
    alone = replace(JOB, teacher=None)
    distillation = TrainingSettings(
        prefix=0.1,
        match=(1,),
        dense=0.3,
        cache="float16",
        combination="graft",
        elr=9.0,
        losses=LossSettings(logits=5.0, correlation=0.0, logits_kind="dkd"),
    )
    assert replace(alone, training=distillation).hash == alone.hash
    assert replace(alone, weak=True, training=distillation).hash != replace(alone, weak=True).hash
    assert replace(alone, training=TrainingSettings(losses=LossSettings(labels=2.0))).hash != alone.hash


@pytest.mark.parametrize("field", LossSettings.model_fields)
def test_every_loss_setting_changes_the_hash(field):
    losses = LossSettings()
    kinds = {"logits_kind": "dkd", "correlation_kind": "pearson", "distribution_kind": "mmd"}
    value = kinds[field] if field in kinds else getattr(losses, field) + 1
    training = TrainingSettings(losses=losses.model_copy(update={field: value}))
    assert replace(JOB, training=training).hash != JOB.hash


def test_names_and_roles_do_not_change_the_hash():
    assert replace(JOB, path=("large", "small"), role="assistant").hash == JOB.hash
    assert replace(JOB, learner=NetworkSpec(name="other", width=8)).hash == JOB.hash
    teacher = Teacher(name="n", family="mobile", width=8, floor=0.5, checkpoint=Path("weights"))
    assert replace(JOB, learner=teacher).hash == JOB.hash
    # The epochs of the job affect its result, those of other roles do not.
    assert replace(JOB, training=TrainingSettings(epochs=99, teacher_epochs=99, rounds=9, refine=0.9)).hash == JOB.hash


def test_a_hash_is_short_stable_and_independent_of_the_order_of_keys():
    assert json_digest({"a": 1, "b": [2, 3]}) == json_digest({"b": [2, 3], "a": 1}) == "efbd0040190fb087"
    assert json_digest({"a": 1}) != json_digest({"a": 2})
    assert len(JOB.hash) == 16
