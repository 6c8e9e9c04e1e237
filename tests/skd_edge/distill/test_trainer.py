"""Training one job: resuming gives equal weights, losses that are not finite, curriculum and graft, mixup, folds."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from skd_bench.errors import UserError
from skd_bench.integrity.checked_files import write_checked
from skd_edge.distill import trainer
from skd_edge.distill.losses.kd import kd_loss
from skd_edge.distill.prediction import predict
from skd_edge.distill.teacher_outputs import FixedTeacherOutputs
from skd_edge.distill.trainer import build_learner
from skd_edge.distill.views import training_view
from skd_edge.recipe.schema import LossSettings, TrainingSettings
from skd_edge.recipe.sections import AugmentationSettings


def weights(trained):
    return trained.network.state_dict()


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(weights(a).values(), weights(b).values(), strict=True))


@pytest.mark.parametrize("kind", ["weak", "staged"])
def test_killed_and_resumed_gives_the_same_weights(tools, tmp_path, kind):
    job = getattr(tools, kind)
    whole = tools.train(job, tmp_path / "whole")
    words = [sys.executable, str(tools.file), kind, str(tmp_path / "killed")]
    killed = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert killed.returncode == -9, killed.stderr
    assert (tmp_path / "killed" / "state.pt").exists()
    epochs = []
    resumed = tools.train(job, tmp_path / "killed", lambda row: epochs.append(row["epoch"]))
    assert min(epochs) == 4  # three epochs were in the checkpoint
    assert same(whole, resumed)
    assert whole.accuracy == resumed.accuracy
    assert [row["terms"] for row in whole.curve] == [row["terms"] for row in resumed.curve]
    if kind == "weak":
        assert np.array_equal(whole.ema_predictions, resumed.ema_predictions)


def test_interrupted_and_resumed_gives_the_same_weights(tools, tmp_path):
    def stop(row):
        if row["epoch"] == 3:
            raise KeyboardInterrupt

    whole = tools.train(tools.staged, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        tools.train(tools.staged, tmp_path / "stopped", stop)
    assert same(whole, tools.train(tools.staged, tmp_path / "stopped"))


def test_interrupted_within_an_epoch_resumes_at_that_epoch(tools, tmp_path, monkeypatch):
    """Also if no checkpoint was due: the interruption itself writes one."""

    def stop(row):
        if row["epoch"] == 4 and row["share"] < 1:
            raise KeyboardInterrupt

    whole = tools.train(tools.weak, tmp_path / "whole")
    monkeypatch.setattr(tools.checkpoint, "save", lambda self, state, *, last, now=False: now and _write(self, state))
    with pytest.raises(KeyboardInterrupt):
        tools.train(tools.weak, tmp_path / "paused", stop)
    epochs = []
    resumed = tools.train(tools.weak, tmp_path / "paused", lambda row: epochs.append(row["epoch"]))
    assert min(epochs) == 4
    assert same(whole, resumed)


def test_interrupted_between_two_epochs_writes_a_checkpoint_too(tools, tmp_path, monkeypatch):
    """While the state is copied, which takes a good part of a short epoch."""
    copies = []

    def copy_three_times(state):
        if len(copies) == 3:
            raise KeyboardInterrupt
        copies.append(copy.deepcopy(state))
        return copies[-1]

    whole = tools.train(tools.weak, tmp_path / "whole")
    monkeypatch.setattr(trainer, "copy", SimpleNamespace(deepcopy=copy_three_times))
    with pytest.raises(KeyboardInterrupt):
        tools.train(tools.weak, tmp_path / "paused")
    monkeypatch.undo()
    epochs = []
    resumed = tools.train(tools.weak, tmp_path / "paused", lambda row: epochs.append(row["epoch"]))
    assert min(epochs) == 3  # two epochs were in the checkpoint
    assert same(whole, resumed)


def _write(checkpoint, state):
    buffer = io.BytesIO()
    torch.save(state(), buffer)
    write_checked(checkpoint.path, buffer.getvalue())


def test_accumulating_over_parts_of_a_batch_is_another_job_with_the_same_gradient(tools, tmp_path):
    halves = replace(tools.weak, training=tools.weak.training.model_copy(update={"accumulate": 2}))
    assert halves.hash != tools.weak.hash
    one, two = (tools.training(job, tmp_path) for job in (tools.weak, halves))
    for each in (one, two):
        each.learner.eval()  # batch norm would normalise by half a batch
        each.train_step(np.arange(16), 0, None)
    for a, b in zip(one.learner.parameters(), two.learner.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


def test_with_a_damaged_checkpoint_training_starts_from_the_beginning(tools, tmp_path):
    whole = tools.train(tools.weak, tmp_path / "whole")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "state.pt").write_bytes(b"half a file")
    assert same(whole, tools.train(tools.weak, tmp_path / "broken"))


def test_weights_depend_on_the_seed_only(tools, tmp_path):
    job = replace(tools.weak, epochs=2)
    one, two = (tools.train(job, tmp_path / name) for name in ("one", "two"))
    assert same(one, two)
    assert not same(one, tools.train(replace(job, seed=1), tmp_path / "three"))


def test_a_loss_that_is_not_finite_names_the_term_the_step_and_the_job(tools, tmp_path):
    start = {
        k: v * float("nan") if v.is_floating_point() else v for k, v in build_learner(tools.weak).state_dict().items()
    }
    notes = []
    message = r"job n \(\w{16}\): the 'labels' loss is not finite at step 1 \(epoch 1\), also at half the rate"
    with pytest.raises(UserError, match=message) as caught:
        tools.train(tools.weak, tmp_path / "a", lambda row: notes.append(row.get("note")), start=start)
    assert "lower training.rate" in str(caught.value)
    assert [n for n in notes if n] == [
        "the 'labels' loss is not finite at step 1: continuing from the last epoch at half the rate"
    ]
    with pytest.raises(UserError, match=r"the 'correlation' loss is not finite"):  # the first term of a curriculum
        tools.train(tools.staged, tmp_path / "b", start=start)


def test_an_epoch_with_weights_that_are_not_finite_is_repeated(tools, tmp_path, monkeypatch):
    """A gradient that overflows in the last step of an epoch is in no loss; the state before the epoch is restored."""
    import skd_edge.distill.trainer as module

    original, steps = module.compute_loss_terms, []

    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * float("inf")

    def overflow_once(*arguments):
        terms = original(*arguments)
        steps.append(1)
        if len(steps) == 6:  # three steps in an epoch
            terms["labels"] = Overflow.apply(terms["labels"])
        return terms

    monkeypatch.setattr(module, "compute_loss_terms", overflow_once)
    slow = tools.train(tools.weak, tmp_path / "slow")
    assert [row.get("pace") for row in slow.curve] == [None, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert all(v.isfinite().all() for v in weights(slow).values())


def test_a_job_that_diverges_once_continues_at_half_the_rate(tools, tmp_path, monkeypatch):
    """One loss is NaN in epoch 3: the state before that epoch is restored, and the job ends with finite weights."""
    import skd_edge.distill.trainer as module

    original, calls = module.compute_loss_terms, []

    def overflow_once(*arguments):
        terms = original(*arguments)
        if len(calls) == 7:  # 48 clips in batches of 16: the second step of the third epoch
            terms["labels"] = terms["labels"] * float("nan")
        calls.append(1)
        return terms

    plain = tools.train(tools.weak, tmp_path / "plain")
    monkeypatch.setattr(module, "compute_loss_terms", overflow_once)
    slow = tools.train(tools.weak, tmp_path / "slow")
    assert [row.get("pace") for row in slow.curve] == [None, None, 0.5, 0.5, 0.5, 0.5]
    assert [row["terms"] for row in slow.curve[:2]] == [row["terms"] for row in plain.curve[:2]]
    assert all(v.isfinite().all() for v in weights(slow).values())
    assert not same(plain, slow)


def test_training_starts_from_the_given_weights(tools, tmp_path):
    first = tools.train(tools.weak, tmp_path / "first")
    continued = tools.train(replace(tools.weak, epochs=1, start="x"), tmp_path / "continued", start=weights(first))
    fresh = tools.train(replace(tools.weak, epochs=1), tmp_path / "fresh")
    assert continued.curve[0]["terms"]["labels"] < fresh.curve[0]["terms"]["labels"]


def test_the_result_is_the_epoch_that_validated_best(tools, tmp_path):
    trained = tools.train(tools.weak, tmp_path / "job")
    accuracies = [row["accuracy"] for row in trained.curve]
    assert accuracies[:3] == [None] * 3  # the first half of the job is not validated
    assert trained.accuracy == max(accuracies[3:])
    clips = tools.clips()
    logits = predict(trained.network, clips.val, tools.preprocess)
    assert (logits.argmax(1) == clips.val.labels).mean() == trained.accuracy
    assert [row["epoch"] for row in trained.curve] == list(range(1, 7))
    assert trained.curve[-1]["terms"]["labels"] < trained.curve[0]["terms"]["labels"]


def test_a_curriculum_trains_prefixes_first(tools, tmp_path):
    job = replace(tools.staged, epochs=4, training=TrainingSettings(**tools.everything, prefix=0.5))
    curve = tools.train(job, tmp_path / "job").curve
    assert set(curve[0]["terms"]) == {"correlation", "distribution"}
    assert set(curve[-1]["terms"]) == {"labels", "logits", "correlation", "distribution"}
    without = tools.train(replace(job, staged=False), tmp_path / "kd").curve
    assert all(set(row["terms"]) == {"labels", "logits"} for row in without)


def test_grafting_trains_prefixes_through_the_teachers_later_substages(tools, tmp_path):
    job = replace(
        tools.staged, epochs=4, training=TrainingSettings(**(tools.everything | {"combination": "graft"}), prefix=0.5)
    )
    trained = tools.train(job, tmp_path / "job")
    assert set(trained.curve[0]["terms"]) == {"graft"}
    assert trained.curve[1]["terms"]["graft"] < trained.curve[0]["terms"]["graft"]
    assert set(trained.curve[-1]["terms"]) == {"labels", "logits", "correlation", "distribution"}
    assert weights(trained).keys() == build_learner(job).state_dict().keys()  # without the adapters


def test_dense_guidance_uses_other_teachers_at_its_share_of_the_steps(tools: Any, tmp_path: Path) -> None:
    """An epoch is one step at a tiny rate: its term is that of the own teacher, or the mean with the other one."""
    augment = AugmentationSettings(shift=0, brightness=0, contrast=0, views=1)
    other = torch.randn(48, 4, generator=torch.Generator().manual_seed(0)) * 4

    def logit_terms(dense: float, epochs: int) -> list[float]:
        training = TrainingSettings(batch=48, rate=1e-9, dense=dense)
        job = replace(tools.staged, epochs=epochs, augment=augment, training=training)
        trained = tools.train(job, tmp_path / f"{dense}", other_teachers=(FixedTeacherOutputs(other.numpy()),))
        return [row["terms"]["logits"] for row in trained.curve]

    ours = build_learner(tools.staged)(
        training_view(tools.clips().train, np.arange(48), 0, replace(tools.staged, augment=augment), tools.preprocess)
    ).logits
    (alone,), (both,) = logit_terms(0.0, 1), logit_terms(1.0, 1)
    others = LossSettings().logits * kd_loss(ours, other, temperature=LossSettings().temperature).item()
    assert both == pytest.approx((alone + others) / 2, rel=1e-4)
    assert both > 1.5 * alone
    sometimes = [round(abs(term - alone) / (both - alone), 2) for term in logit_terms(0.5, 16)]
    assert set(sometimes) == {0.0, 1.0}
    assert 4 < sum(sometimes) < 12


def test_a_mixed_clip_has_the_labels_of_both_in_their_shares(tools: Any, tmp_path: Path) -> None:
    """The loss of the first step, over all clips."""
    from skd_edge.data.augmentation import choose_mixup_partners

    augment, index = AugmentationSettings(shift=0, brightness=0, contrast=0, mixup=1.0), np.arange(48)
    job = replace(tools.weak, weak=False, epochs=1, augment=augment, training=TrainingSettings(batch=48))
    clips = tools.clips().train
    rows, share = choose_mixup_partners(clips.ids, index, 0, 1.0)
    log_p = torch.log_softmax(build_learner(job)(training_view(clips, index, 0, job, tools.preprocess)).logits, 1)
    own, other = (-log_p[index, clips.labels[i]] for i in (index, rows))
    mixed = (share * own + (1 - share) * other).mean().item()
    assert abs(mixed - own.mean().item()) > 1e-3
    assert tools.train(job, tmp_path).curve[0]["terms"]["labels"] == pytest.approx(mixed, abs=1e-5)


@pytest.mark.parametrize("ema", [0.0, 0.5, 0.98])
def test_the_decay_of_the_averaged_weights_grows_to_ema(tools: Any, tmp_path: Path, ema: float) -> None:
    """The decay at step n is min(ema, (1 + n) / (10 + n)); with ema 0 the average is the last weights."""
    state = tools.training(replace(tools.weak, training=TrainingSettings(batch=16, ema=ema)), tmp_path)
    expected = {k: v.clone() for k, v in state.learner.state_dict().items() if v.is_floating_point()}
    for step in range(1, 13):
        state.train_step(np.arange(16), 0, None)
        decay, now = min(ema, (1 + step) / (10 + step)), state.learner.state_dict()
        expected = {k: decay * v + (1 - decay) * now[k] for k, v in expected.items()}
    found = state.ema_network.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
