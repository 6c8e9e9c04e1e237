"""One leg: killed and resumed it gives the very same weights; what goes wrong is said; the curriculum and its terms."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from skd_bench.errors import UserError
from skd_edge.distill.leg import build_learner, look, loss_terms, predict
from skd_edge.models.substages import Staged
from skd_edge.recipe import Losses, Training


def weights(trained):
    return trained.network.state_dict()


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(weights(a).values(), weights(b).values(), strict=True))


@pytest.mark.parametrize("kind", ["weak", "staged"])
def test_killed_and_resumed_gives_the_same_weights(tools, tmp_path, kind):
    leg = getattr(tools, kind)
    whole = tools.train(leg, tmp_path / "whole")
    words = [sys.executable, str(tools.file), kind, str(tmp_path / "killed")]
    killed = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert killed.returncode == -9, killed.stderr
    assert (tmp_path / "killed" / "state.pt").exists()
    epochs = []
    resumed = tools.train(leg, tmp_path / "killed", lambda row: epochs.append(row["epoch"]))
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


def test_a_broken_checkpoint_begins_anew(tools, tmp_path):
    whole = tools.train(tools.weak, tmp_path / "whole")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "state.pt").write_bytes(b"half a file")
    assert same(whole, tools.train(tools.weak, tmp_path / "broken"))


def test_the_seed_decides(tools, tmp_path):
    leg = replace(tools.weak, epochs=2)
    one, two = (tools.train(leg, tmp_path / name) for name in ("one", "two"))
    assert same(one, two)
    assert not same(one, tools.train(replace(leg, seed=1), tmp_path / "three"))


def test_a_loss_that_is_not_finite_names_the_term_and_the_leg(tools, tmp_path):
    start = {
        k: v * float("nan") if v.is_floating_point() else v for k, v in build_learner(tools.weak).state_dict().items()
    }
    with pytest.raises(UserError, match=r"leg n \(\w{16}\): the 'labels' loss is not finite in epoch 1") as caught:
        tools.train(tools.weak, tmp_path / "a", start=start)
    assert "lower training.rate" in str(caught.value)
    with pytest.raises(UserError, match=r"the 'correlation' loss is not finite"):  # the first that a curriculum has
        tools.train(tools.staged, tmp_path / "b", start=start)


def test_it_learns_from_the_start_that_it_is_given(tools, tmp_path):
    first = tools.train(tools.weak, tmp_path / "first")
    on = tools.train(replace(tools.weak, epochs=1, start="x"), tmp_path / "on", start=weights(first))
    anew = tools.train(replace(tools.weak, epochs=1), tmp_path / "anew")
    assert on.curve[0]["terms"]["labels"] < anew.curve[0]["terms"]["labels"]


def test_the_result_is_the_epoch_that_validated_best(tools, tmp_path):
    trained = tools.train(tools.weak, tmp_path / "leg")
    said = [row["accuracy"] for row in trained.curve]
    assert said[:3] == [None] * 3  # the first half is not looked at
    assert trained.accuracy == max(said[3:])
    clips = tools.clips()
    logits = predict(trained.network, clips.val, tools.preprocess)
    assert (logits.argmax(1) == clips.val.labels).mean() == trained.accuracy
    assert look(trained.network, clips.val, tools.preprocess).shape == (20, 8)
    assert [row["epoch"] for row in trained.curve] == list(range(1, 7))
    assert trained.curve[-1]["terms"]["labels"] < trained.curve[0]["terms"]["labels"]


def test_terms_of_the_method(tools):
    """Which terms there are, and that each weight scales its own term and 0 turns it off."""
    from skd_edge.distill.losses.distribution import DistributionLoss

    torch.manual_seed(0)
    said = Staged([torch.randn(6, 4, 4), torch.randn(6, 4, 8)], torch.randn(6, 4))
    taught = Staged([torch.randn(6, 4, 5), torch.randn(6, 4, 10)], torch.randn(6, 4))
    targets, memory = torch.eye(4)[[0, 1, 2, 3, 0, 1]], torch.full((6, 4), 0.2)
    spread = DistributionLoss((4, 8), (5, 10)).eval()

    def terms(said=said, taught=taught, memory=memory, spread=spread, **weight):
        leg = replace(tools.staged, training=Training(losses=Losses(**weight)))
        return {k: v.item() for k, v in loss_terms(leg, said, taught, targets, memory, spread).items()}

    every = terms()
    assert set(every) == {"labels", "early learning", "logits", "correlation", "distribution"}
    assert set(terms(taught=None, spread=None, memory=None)) == {"labels"}
    assert set(terms(spread=None, memory=None)) == {"labels", "logits"}
    assert set(terms(said=Staged(said.features[:1], None))) == {"correlation", "distribution"}
    assert set(terms(logits=0, correlation=0, distribution=0)) == {"labels", "early learning"}
    for name in ("labels", "logits", "correlation", "distribution"):
        doubled = terms(**{name: 2 * getattr(Losses(), name)})
        assert doubled[name] == pytest.approx(2 * every[name], rel=1e-5)
        assert {k: v for k, v in doubled.items() if k != name} == {k: v for k, v in every.items() if k != name}


def test_the_curriculum_lets_prefixes_learn_first(tools, tmp_path):
    leg = replace(tools.staged, epochs=4, training=Training(batch=16, rate=0.01, prefix=0.5))
    curve = tools.train(leg, tmp_path / "leg").curve
    assert set(curve[0]["terms"]) == {"correlation", "distribution"}
    assert set(curve[-1]["terms"]) == {"labels", "logits", "correlation", "distribution"}
    without = tools.train(replace(leg, staged=False), tmp_path / "kd").curve
    assert all(set(row["terms"]) == {"labels", "logits"} for row in without)
