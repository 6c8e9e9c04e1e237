"""Which weights of a training are its result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.distill.trainer import predict, training_view
from skd_edge.distill.weight_selection import WeightSelection
from skd_edge.recipe.training import TrainingSettings

ACCURACIES = st.lists(st.sampled_from([None, 0.5, 0.6, 0.7, 0.8]), min_size=1, max_size=12)


def select(rule: Any, accuracies: list[float | None]) -> WeightSelection:
    """The selection after epochs with these accuracies; the weights of epoch i are i + 1."""
    selection = WeightSelection({"w": torch.zeros(2), "steps": torch.tensor(0)})
    for i, accuracy in enumerate(accuracies):
        weights = {"w": torch.full((2,), i + 1.0), "steps": torch.tensor(i + 1)}
        selection = selection.add_epoch(rule, weights, accuracy, 1 - (i + 1) / len(accuracies))
        weights["w"].fill_(-9)  # training goes on in place
    return selection


@settings(deadline=None)
@given(ACCURACIES)
def test_best_is_the_last_of_the_most_accurate_epochs(accuracies):
    got, known = select("best", accuracies), [a for a in accuracies if a is not None]
    if not known:
        assert (got.accuracy, got.weights["w"][0]) == (-1, 0)
        return
    assert got.accuracy == max(known)
    assert got.weights["w"][0] == max(i for i, a in enumerate(accuracies, 1) if a == max(known))


@settings(deadline=None)
@given(ACCURACIES)
def test_smoothed_is_an_epoch_with_its_own_accuracy(accuracies):
    got = select("smoothed", accuracies)
    epoch = int(got.weights["w"][0])
    assert (got.accuracy == accuracies[epoch - 1]) if epoch else not any(accuracies)
    if (known := [a for a in accuracies if a is not None]) and len(set(known)) == 1:
        assert got.score == pytest.approx(known[0])


def test_one_lucky_epoch_is_not_selected_by_the_smoothed_accuracy():
    accuracies = [0.6, 0.9, 0.6, 0.6, 0.8, 0.8, 0.8]
    assert select("best", accuracies).weights["w"][0] == 2
    got = select("smoothed", accuracies)
    assert (got.weights["w"][0], got.accuracy) == (7, 0.8)


@settings(deadline=None)
@given(ACCURACIES)
def test_averaged_is_the_mean_of_the_last_quarter_whatever_was_validated(accuracies):
    got, last = select("averaged", accuracies), np.arange(1, len(accuracies) + 1)
    last = last[last > 0.75 * len(accuracies)]
    assert got.count == len(last)
    assert got.weights["w"].tolist() == pytest.approx([last.mean()] * 2)
    assert got.weights["steps"] == len(accuracies)  # a counter is not averaged
    assert got.accuracy == -1


def selected_job(tools: Any, rule: str, **changed: Any) -> Any:
    training = TrainingSettings(batch=16, rate=0.01, select=rule)
    return replace(tools.weak, training=training, epochs=8, **changed)


def test_only_another_rule_is_another_job(tools):
    assert "select" not in TrainingSettings().model_dump()
    assert len({selected_job(tools, rule).hash for rule in ("best", "smoothed", "averaged")}) == 3


@pytest.mark.parametrize("rule", ["smoothed", "averaged"])
def test_interrupted_and_resumed_gives_the_same_weights(tools, tmp_path, rule):
    def stop(row):
        if row["epoch"] == 7 and row["share"] == 1:
            raise KeyboardInterrupt

    job = selected_job(tools, rule)
    whole = tools.train(job, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        tools.train(job, tmp_path / "stopped", stop)
    resumed = tools.train(job, tmp_path / "stopped")
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name
    assert whole.accuracy == resumed.accuracy
    clips = tools.clips()
    logits = predict(whole.network, clips.val, tools.preprocess)
    assert (logits.argmax(1) == clips.val.labels).mean() == whole.accuracy
    assert not whole.network.training


def test_an_average_gets_batch_norm_statistics_of_its_own(tools, tmp_path):
    """Averaged statistics would be those of the networks in the average."""
    trained = tools.train(selected_job(tools, "averaged"), tmp_path / "job").network
    norm = next(m for m in trained.modules() if isinstance(m, torch.nn.BatchNorm2d))
    fresh = tools.train(selected_job(tools, "averaged"), tmp_path / "again").network
    inputs: list[torch.Tensor] = []
    first = next(m for m in fresh.modules() if isinstance(m, torch.nn.BatchNorm2d))
    hook = first.register_forward_hook(lambda module, args, out: inputs.append(args[0]))
    clips = tools.clips()
    job = selected_job(tools, "averaged")
    for rows in np.array_split(np.arange(48), 3):
        fresh(training_view(clips.train, rows, 7 % 3, job, tools.preprocess))
    hook.remove()
    means = torch.stack([x.mean(dim=(0, 2, 3)) for x in inputs]).mean(0)
    assert torch.allclose(norm.running_mean, means, atol=1e-5)
