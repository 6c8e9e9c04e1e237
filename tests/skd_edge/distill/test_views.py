"""The clips that a job trains on, and their views."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from skd_edge.data.augmentation import choose_mixup_partners
from skd_edge.distill.views import assign_folds, training_rows, training_view
from skd_edge.recipe.sections import AugmentationSettings


def test_a_job_without_a_fold_trains_on_all_clips_and_others_on_all_but_the_fold(tools):
    clips = tools.clips().train
    assert np.array_equal(training_rows(tools.weak, clips), np.arange(48))
    parts = [training_rows(replace(tools.weak, fold=(i, 3)), clips) for i in range(3)]
    assert sorted(np.concatenate(parts)) == sorted([*range(48), *range(48)])


def test_mixed_clips_have_mixed_labels_and_one_view_for_teacher_and_learner(tools, tmp_path):
    """A mixed clip is a function of (clip, view), and its label is mixed in the same shares."""
    clips = tools.clips().train
    job = replace(tools.weak, augment=AugmentationSettings(shift=0, brightness=0, contrast=0, mixup=1.0, views=3))
    plain = replace(job, augment=job.augment.model_copy(update={"mixup": 0.0}))
    index = np.arange(10)
    mixed = training_view(clips, index, 1, job, tools.preprocess)
    assert torch.equal(mixed[3:7], training_view(clips, index[3:7], 1, job, tools.preprocess))
    rows, share = choose_mixup_partners(clips.ids[index], np.arange(len(clips)), 1, 1.0)
    parts = [training_view(clips, i, 1, plain, tools.preprocess) for i in (index, rows)]
    keep = share.view(-1, 1, 1, 1, 1)
    assert torch.allclose(mixed, keep * parts[0] + (1 - keep) * parts[1], atol=1e-5)
    assert ((share >= 0.5) & (share <= 1)).all()
    assert len(set(rows.tolist())) > 3
    trained = tools.train(replace(job, weak=False), tmp_path / "job")
    assert trained.curve[-1]["terms"]["labels"] < trained.curve[0]["terms"]["labels"]


def test_teacher_and_learner_see_one_view_with_every_augmentation(tools, tmp_path):
    """The teacher's outputs are stored in the order of the clips, the learner takes them in batches of its own."""
    every = {"flip": True, "scale": 0.3, "time": 0.4, "saturation": 0.5, "reverse": True, "mixup": 0.5}
    job = replace(tools.staged, epochs=2, augment=AugmentationSettings(shift=1, views=2, **every))
    clips, order = tools.clips().train, np.random.default_rng(0).permutation(48)
    for view in (0, 1):
        stored = training_view(clips, np.arange(48), view, job, tools.preprocess)
        assert torch.equal(stored[order[:16]], training_view(clips, order[:16], view, job, tools.preprocess))
        assert not torch.equal(stored, training_view(clips, np.arange(48), -1, job, tools.preprocess))
    trained = tools.train(job, tmp_path / "job")
    assert trained.curve[1]["terms"]["logits"] < trained.curve[0]["terms"]["logits"]


def test_a_fold_is_not_trained_on_its_held_out_part(tools, tmp_path):
    """Clips that are held out have no mean predictions, and they are not partners in mixup."""
    job = replace(tools.weak, fold=(1, 3), epochs=2)
    part = assign_folds(np.arange(48), 3)
    assert sorted(np.bincount(part)) == [16, 16, 16]
    whole = tools.train(job, tmp_path / "a")
    assert not whole.ema_predictions[part == 1].any()
    mixed = replace(job, augment=AugmentationSettings(shift=0, brightness=0, contrast=0, mixup=1.0, views=3))
    clips = tools.clips().train
    mine = np.flatnonzero(part != 1)
    before = training_view(clips, mine, 1, mixed, tools.preprocess)
    clips.clips[part == 1] = 0  # held-out clips are not partners in mixup
    assert torch.equal(before, training_view(clips, mine, 1, mixed, tools.preprocess))
    assert (whole.ema_predictions[part != 1].sum(1) > 0).all()
