"""The rules are compared on one training, and each picks the weights that its own training would give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from skd_bench.video.types import Preprocessing
from skd_edge.data.store.clip_store import ClipDataset, ClipSplit, SealedSplit
from skd_edge.distill.job import JobSpec
from skd_edge.distill.prediction import predict
from skd_edge.distill.trainer import TrainingInputs, train_job
from skd_edge.recipe.schema import NetworkSpec, TrainingSettings
from skd_edge.recipe.sections import AugmentationSettings, ClipSettings

PREPROCESS = Preprocessing(16, 16, "crop", (0.45,) * 3, (0.225,) * 3)
TRAINING = TrainingSettings(batch=8, rate=0.01)
SPEC = JobSpec(
    learner=NetworkSpec(name="small", width=4, depths=(1, 1)),
    role="alone",
    path=("small",),
    teacher=None,
    start=None,
    targets="t",
    data="d",
    classes=3,
    clip=ClipSettings(frames=2, size=16),
    augment=AugmentationSettings(shift=1, views=2),
    training=TRAINING,
    epochs=8,
    weak=False,
    staged=False,
    seed=0,
)


def make_inputs() -> TrainingInputs:
    rng = np.random.default_rng(0)

    def split(first: int, count: int) -> ClipSplit:
        ids = np.arange(first, first + count)
        pixels = rng.integers(0, 256, (count, 2, 16, 16, 3), np.uint8)
        return ClipSplit(ids, pixels, ids % 3, ids // 3, tuple(map(str, ids)), str(first))

    clips = ClipDataset(("a", "b", "c"), split(0, 24), split(24, 12), SealedSplit(split(36, 12)), (), "")
    return TrainingInputs(clips, np.eye(3, dtype=np.float32)[clips.train.labels], PREPROCESS)


def test_every_rule_gives_what_its_own_training_gives(tmp_path):
    from bench.suites.training.weight_selection import RULES, ComparingTrainer

    torch.set_num_threads(1)
    inputs = make_inputs()
    compared = ComparingTrainer(SPEC, inputs, tmp_path / "compared")
    compared.train_all_epochs()
    found = compared.predict_by_rule()
    for rule in RULES:
        spec = replace(SPEC, training=TRAINING.model_copy(update={"select": rule}))
        alone = train_job(spec, inputs, tmp_path / rule)
        test = predict(alone.network, inputs.clips.test.unseal(), PREPROCESS)
        assert found[rule] == {"validation": alone.accuracy, "predictions": test.argmax(1).tolist()}, rule
    assert len(found["last"]["predictions"]) == 12


def test_a_summary_pools_folds_and_pairs_the_rules():
    from bench.suites.training.weight_selection import summarise

    rng, rows = np.random.default_rng(0), []
    for seed in (0, 1):
        for fold in range(5):
            labels = rng.integers(3, size=30)
            noisy = np.where(rng.random(30) < 0.3, (labels + 1) % 3, labels)
            rules = {name: {"validation": 0.9, "predictions": noisy.tolist()} for name in ("last", "best", "smoothed")}
            rules["averaged"] = {"validation": 0.8, "predictions": labels.tolist()}
            groups = [f"{fold}:{i // 8}" for i in range(30)]
            rows.append(
                {"fold": fold, "seed": seed, "seconds": 6.0, "labels": labels, "groups": groups, "rules": rules}
            )
    found = summarise(rows)
    assert (found["trainings"], found["clips"], found["sequences"], found["minutes"]) == (10, 150, 20, 1.0)
    assert found["rules"]["smoothed"]["minus_best"]["balanced"] == [0, 0, 0]
    value, low, high = found["rules"]["averaged"]["minus_best"]["balanced"]
    assert 0.15 < low < value < high < 0.45
    assert found["rules"]["averaged"]["balanced"][0] == 1
    assert found["rules"]["averaged"]["optimism_points"] == pytest.approx(-20)
