"""One job: killed and resumed it gives the very same weights; what goes wrong is said; the curriculum and its terms."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skd_bench.errors import UserError
from skd_edge.distill.losses.kd import kd_loss
from skd_edge.distill.objective import compute_loss_terms, phase_at
from skd_edge.distill.teacher_outputs import FixedTeacherOutputs
from skd_edge.distill.trainer import build_learner, extract_features, predict, training_view
from skd_edge.models.substages import SubstageOutput
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
    assert min(epochs) == 4  # three epochs were kept
    assert same(whole, resumed)
    assert whole.accuracy == resumed.accuracy
    assert [row["terms"] for row in whole.curve] == [row["terms"] for row in resumed.curve]
    if kind == "weak":
        assert np.array_equal(whole.memory, resumed.memory)


def test_stopped_by_hand_and_resumed(tools, tmp_path):
    def stop(row):
        if row["epoch"] == 3:
            raise KeyboardInterrupt

    whole = tools.train(tools.staged, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        tools.train(tools.staged, tmp_path / "stopped", stop)
    assert same(whole, tools.train(tools.staged, tmp_path / "stopped"))


def test_paused_within_an_epoch_keeps_the_epochs_before(tools, tmp_path, monkeypatch):
    """Also where no checkpoint was due: the pause itself writes one."""

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


def _write(checkpoint, state):
    torch.save(state(), checkpoint.path)


def test_a_batch_in_parts_is_another_job_and_the_same_gradient_where_nothing_is_shared_in_it(tools, tmp_path):
    halves = replace(tools.weak, training=tools.weak.training.model_copy(update={"accumulate": 2}))
    assert halves.hash != tools.weak.hash
    one, two = (tools.training(job, tmp_path) for job in (tools.weak, halves))
    for each in (one, two):
        each.learner.eval()  # batch normalisation would see half a batch
        each._train_step(np.arange(16), 0, None)
    for a, b in zip(one.learner.parameters(), two.learner.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


def test_a_broken_checkpoint_begins_anew(tools, tmp_path):
    whole = tools.train(tools.weak, tmp_path / "whole")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "state.pt").write_bytes(b"half a file")
    assert same(whole, tools.train(tools.weak, tmp_path / "broken"))


def test_the_seed_decides(tools, tmp_path):
    job = replace(tools.weak, epochs=2)
    one, two = (tools.train(job, tmp_path / name) for name in ("one", "two"))
    assert same(one, two)
    assert not same(one, tools.train(replace(job, seed=1), tmp_path / "three"))


def test_a_loss_that_is_not_finite_names_the_term_the_step_and_the_job(tools, tmp_path):
    start = {
        k: v * float("nan") if v.is_floating_point() else v for k, v in build_learner(tools.weak).state_dict().items()
    }
    notes = []
    said = r"job n \(\w{16}\): the 'labels' loss is not finite at step 1 \(epoch 1\), also at half the rate"
    with pytest.raises(UserError, match=said) as caught:
        tools.train(tools.weak, tmp_path / "a", lambda row: notes.append(row.get("note")), start=start)
    assert "lower training.rate" in str(caught.value)
    assert [n for n in notes if n] == [
        "the 'labels' loss is not finite at step 1: going on from the last epoch at half the rate"
    ]
    with pytest.raises(UserError, match=r"the 'correlation' loss is not finite"):  # the first that a curriculum has
        tools.train(tools.staged, tmp_path / "b", start=start)


def test_weights_that_are_not_finite_end_no_epoch(tools, tmp_path, monkeypatch):
    """A gradient that overflows in an epoch's last step shows in no loss; the state before the epoch comes back."""
    import skd_edge.distill.trainer as module

    whole, steps = module.compute_loss_terms, []

    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * float("inf")

    def once(job, said, *rest):
        terms = whole(job, said, *rest)
        steps.append(1)
        if len(steps) == 6:  # three steps an epoch
            terms["labels"] = Overflow.apply(terms["labels"])
        return terms

    monkeypatch.setattr(module, "compute_loss_terms", once)
    slow = tools.train(tools.weak, tmp_path / "slow")
    assert [row.get("pace") for row in slow.curve] == [None, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert all(v.isfinite().all() for v in weights(slow).values())


def test_a_job_that_diverges_once_goes_on_at_half_the_rate(tools, tmp_path, monkeypatch):
    """One poisoned batch in epoch 3: the state before that epoch comes back, and the job ends with finite weights."""
    import skd_edge.distill.trainer as module

    whole, poisoned = module.compute_loss_terms, []

    def once(job, said, *rest):
        terms = whole(job, said, *rest)
        if len(poisoned) == 7:  # 48 clips in batches of 16: the second step of the third epoch
            terms["labels"] = terms["labels"] * float("nan")
        poisoned.append(1)
        return terms

    plain = tools.train(tools.weak, tmp_path / "plain")
    monkeypatch.setattr(module, "compute_loss_terms", once)
    slow = tools.train(tools.weak, tmp_path / "slow")
    assert [row.get("pace") for row in slow.curve] == [None, None, 0.5, 0.5, 0.5, 0.5]
    assert [row["terms"] for row in slow.curve[:2]] == [row["terms"] for row in plain.curve[:2]]
    assert all(v.isfinite().all() for v in weights(slow).values())
    assert not same(plain, slow)


def test_it_learns_from_the_start_that_it_is_given(tools, tmp_path):
    first = tools.train(tools.weak, tmp_path / "first")
    on = tools.train(replace(tools.weak, epochs=1, start="x"), tmp_path / "on", start=weights(first))
    anew = tools.train(replace(tools.weak, epochs=1), tmp_path / "anew")
    assert on.curve[0]["terms"]["labels"] < anew.curve[0]["terms"]["labels"]


def test_the_result_is_the_epoch_that_validated_best(tools, tmp_path):
    trained = tools.train(tools.weak, tmp_path / "job")
    said = [row["accuracy"] for row in trained.curve]
    assert said[:3] == [None] * 3  # the first half is not looked at
    assert trained.accuracy == max(said[3:])
    clips = tools.clips()
    logits = predict(trained.network, clips.val, tools.preprocess)
    assert (logits.argmax(1) == clips.val.labels).mean() == trained.accuracy
    assert extract_features(trained.network, clips.val, tools.preprocess).shape == (20, 8)
    assert [row["epoch"] for row in trained.curve] == list(range(1, 7))
    assert trained.curve[-1]["terms"]["labels"] < trained.curve[0]["terms"]["labels"]


def test_terms_of_the_method(tools):
    """Which terms there are, and that each weight scales its own term and 0 turns it off."""
    from skd_edge.distill.losses.distribution import DistributionLoss

    torch.manual_seed(0)
    said = SubstageOutput([torch.randn(6, 4, 4), torch.randn(6, 4, 8)], torch.randn(6, 4))
    taught = SubstageOutput([torch.randn(6, 4, 5), torch.randn(6, 4, 10)], torch.randn(6, 4))
    targets, memory = torch.eye(4)[[0, 1, 2, 3, 0, 1]], torch.full((6, 4), 0.2)
    spread = DistributionLoss((4, 8), (5, 10)).eval()

    def terms(said=said, taught=taught, memory=memory, spread=spread, **weight):
        job = replace(tools.staged, training=TrainingSettings(losses=LossSettings(**({"distribution": 1.0} | weight))))
        return {k: v.item() for k, v in compute_loss_terms(job, said, taught, targets, memory, spread).items()}

    every = terms()
    assert set(every) == {"labels", "early learning", "logits", "correlation", "distribution"}
    assert set(terms(taught=None, spread=None, memory=None)) == {"labels"}
    assert set(terms(spread=None, memory=None)) == {"labels", "logits"}
    assert set(terms(said=SubstageOutput(said.features[:1], None))) == {"correlation", "distribution"}
    assert set(terms(logits=0, correlation=0, distribution=0)) == {"labels", "early learning"}
    for name in ("labels", "logits", "correlation", "distribution"):
        doubled = terms(**{name: 2 * (getattr(LossSettings(), name) or 1.0)})
        assert doubled[name] == pytest.approx(2 * every[name], rel=1e-5)
        assert {k: v for k, v in doubled.items() if k != name} == {k: v for k, v in every.items() if k != name}


def test_the_curriculum_lets_prefixes_learn_first(tools, tmp_path):
    job = replace(tools.staged, epochs=4, training=TrainingSettings(**tools.everything, prefix=0.5))
    curve = tools.train(job, tmp_path / "job").curve
    assert set(curve[0]["terms"]) == {"correlation", "distribution"}
    assert set(curve[-1]["terms"]) == {"labels", "logits", "correlation", "distribution"}
    without = tools.train(replace(job, staged=False), tmp_path / "kd").curve
    assert all(set(row["terms"]) == {"labels", "logits"} for row in without)


def test_graft_teaches_prefixes_through_the_teachers_own_later_substages(tools, tmp_path):
    job = replace(
        tools.staged, epochs=4, training=TrainingSettings(**(tools.everything | {"combination": "graft"}), prefix=0.5)
    )
    trained = tools.train(job, tmp_path / "job")
    assert set(trained.curve[0]["terms"]) == {"graft"}
    assert trained.curve[1]["terms"]["graft"] < trained.curve[0]["terms"]["graft"]
    assert set(trained.curve[-1]["terms"]) == {"labels", "logits", "correlation", "distribution"}
    assert weights(trained).keys() == build_learner(job).state_dict().keys()  # the adapters are gone


def test_phases_of_a_curriculum(tools):
    """Which prefix learns when, for all substages and for some, by curriculum and by graft."""
    from skd_edge.recipe.schema import NetworkSpec

    def phases(**settings):
        training = TrainingSettings(**(tools.everything | settings), prefix=0.5)
        job = replace(tools.staged, learner=NetworkSpec(name="n", width=4), training=training)
        return [(p.upto, p.grafted) for p in (phase_at(job, d / 8) for d in range(6))]

    whole = (None, False)
    assert phases() == [(1, False), (2, False), (3, False), (4, False), whole, whole]
    assert phases(match=(2, 4)) == [(2, False)] * 2 + [(4, False)] * 2 + [whole] * 2
    assert phases(combination="graft", match=(1, 2, 4)) == [(1, True)] * 2 + [(2, True)] * 2 + [whole] * 2
    assert phases(combination="graft", match=(4,)) == [whole] * 6  # nothing of the teacher lies behind the last
    assert phases(combination="none") == [whole] * 6
    assert phases(losses=LossSettings(correlation=0, distribution=0)) == [whole] * 6


def test_only_matched_substages_are_compared(tools, tmp_path):
    """A teacher whose first substage is unlike anything changes nothing where only the second is matched."""
    torch.manual_seed(0)
    said = SubstageOutput([torch.randn(6, 4, 4), torch.randn(6, 4, 8)], torch.randn(6, 4))
    taught = SubstageOutput([torch.randn(6, 4, 5), torch.randn(6, 4, 10)], torch.randn(6, 4))
    other = SubstageOutput([torch.randn(6, 4, 5), taught.features[1]], taught.logits)
    job = replace(tools.staged, training=TrainingSettings(**tools.everything, match=(2,)))
    terms = [
        compute_loss_terms(job, said, t, torch.eye(4)[[0, 1, 2, 3, 0, 1]])["labels"].item() for t in (taught, other)
    ]
    assert terms[0] == terms[1]
    from skd_edge.distill.losses.distribution import DistributionLoss

    spread = DistributionLoss((8,), (10,)).eval()
    each = [compute_loss_terms(job, said, t, torch.eye(4)[[0, 1, 2, 3, 0, 1]], None, spread) for t in (taught, other)]
    assert all(each[0][name].item() == each[1][name].item() for name in each[0])


def test_dense_guidance_listens_to_the_teachers_further_up(tools, tmp_path):
    torch.manual_seed(0)
    said = SubstageOutput([torch.randn(6, 4, 4)], torch.randn(6, 4))
    taught, above = SubstageOutput([torch.randn(6, 4, 5)], torch.randn(6, 4)), torch.randn(6, 4)
    targets, job = torch.eye(4)[[0, 1, 2, 3, 0, 1]], tools.staged

    def logits(teacher, *others):
        return compute_loss_terms(job, said, SubstageOutput(taught.features, teacher), targets, other_logits=others)[
            "logits"
        ].item()

    both = (logits(taught.logits) + logits(above)) / 2
    assert logits(taught.logits, above) == pytest.approx(both, rel=1e-5)


def test_a_job_hears_the_teachers_further_up_at_its_share_of_the_steps(tools: Any, tmp_path: Path) -> None:
    """Each epoch is one step, too short to move a weight: its term is its own teacher's, or the mean with the other."""
    augment = AugmentationSettings(shift=0, brightness=0, contrast=0, views=1)
    above = torch.randn(48, 4, generator=torch.Generator().manual_seed(0)) * 4

    def heard(dense: float, epochs: int) -> list[float]:
        training = TrainingSettings(batch=48, rate=1e-9, dense=dense)
        job = replace(tools.staged, epochs=epochs, augment=augment, training=training)
        trained = tools.train(job, tmp_path / f"{dense}", others=(FixedTeacherOutputs(above.numpy()),))
        return [row["terms"]["logits"] for row in trained.curve]

    ours = build_learner(tools.staged)(
        training_view(tools.clips().train, np.arange(48), 0, replace(tools.staged, augment=augment), tools.preprocess)
    ).logits
    (alone,), (both,) = heard(0.0, 1), heard(1.0, 1)
    others = LossSettings().logits * kd_loss(ours, above, temperature=LossSettings().temperature).item()
    assert both == pytest.approx((alone + others) / 2, rel=1e-4)
    assert both > 1.5 * alone
    sometimes = [round(abs(term - alone) / (both - alone), 2) for term in heard(0.5, 16)]
    assert set(sometimes) == {0.0, 1.0}
    assert 4 < sum(sometimes) < 12


def test_a_mixed_clip_is_taught_the_labels_of_both_in_their_shares(tools: Any, tmp_path: Path) -> None:
    """The loss of one step over all clips, before any weight moved."""
    from skd_edge.data.augmentation import choose_mixup_partners

    augment, index = AugmentationSettings(shift=0, brightness=0, contrast=0, mixup=1.0), np.arange(48)
    job = replace(tools.weak, weak=False, epochs=1, augment=augment, training=TrainingSettings(batch=48))
    clips = tools.clips().train
    rows, share = choose_mixup_partners(clips.ids, index, 0, 1.0)
    said = torch.log_softmax(build_learner(job)(training_view(clips, index, 0, job, tools.preprocess)).logits, 1)
    own, other = (-said[index, clips.labels[i]] for i in (index, rows))
    mixed = (share * own + (1 - share) * other).mean().item()
    assert abs(mixed - own.mean().item()) > 1e-3
    assert tools.train(job, tmp_path).curve[0]["terms"]["labels"] == pytest.approx(mixed, abs=1e-5)


@pytest.mark.parametrize("ema", [0.0, 0.5, 0.98])
def test_the_average_follows_the_weights_slowly_and_faster_at_first(tools: Any, tmp_path: Path, ema: float) -> None:
    """At step n a share of min(ema, (1 + n) / (10 + n)) stays as it was; with ema 0 it is the last weights."""
    state = tools.training(replace(tools.weak, training=TrainingSettings(batch=16, ema=ema)), tmp_path)
    expected = {k: v.clone() for k, v in state.learner.state_dict().items() if v.is_floating_point()}
    for step in range(1, 13):
        state._train_step(np.arange(16), 0, None)
        decay, now = min(ema, (1 + step) / (10 + step)), state.learner.state_dict()
        expected = {k: decay * v + (1 - decay) * now[k] for k, v in expected.items()}
    found = state.ema_network.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_mixed_clips_have_mixed_labels_and_one_view_for_teacher_and_learner(tools, tmp_path):
    """The mixed clip is the view: it is a function of (clip, view), and its label is mixed in the same shares."""
    from skd_edge.data.augmentation import choose_mixup_partners

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


def test_a_fold_never_sees_its_own_part(tools, tmp_path):
    """What is left out is never asked about while the job trains: nothing is remembered of it."""
    from skd_edge.distill.trainer import assign_folds

    job = replace(tools.weak, fold=(1, 3), epochs=2)
    part = assign_folds(np.arange(48), 3)
    assert sorted(np.bincount(part)) == [16, 16, 16]
    whole = tools.train(job, tmp_path / "a")
    assert not whole.memory[part == 1].any()
    mixed = replace(job, augment=AugmentationSettings(shift=0, brightness=0, contrast=0, mixup=1.0, views=3))
    clips = tools.clips().train
    mine = np.flatnonzero(part != 1)
    before = training_view(clips, mine, 1, mixed, tools.preprocess)
    clips.clips[part == 1] = 0  # what is left out is no partner either
    assert torch.equal(before, training_view(clips, mine, 1, mixed, tools.preprocess))
    assert (whole.memory[part != 1].sum(1) > 0).all()
