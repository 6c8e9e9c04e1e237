"""Every row of the study with checked clips, on a tiny set: runs, is deterministic, uses only what it may use."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from skd_bench.errors import UserError
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.distill.prediction import predict
from skd_edge.labels.dataset import load_training_data
from skd_edge.recipe.loader import resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run, open_cache

RECIPE = {
    "name": "tiny",
    "data": {"kind": "generated", "train": 100, "val": 20, "test": 20, "frames": 4, "size": 16},
    "clip": {"frames": 4, "size": 16},
    "augment": {"shift": 1, "views": 2},
    "labels": {"noise": {"kind": "classes", "rate": 0.4}, "trusted_per_class": 2},
    "teacher": {"family": "resnet", "width": 8, "depths": [1, 1]},
    "students": [{"name": "small", "width": 4, "depths": [1, 1]}],
    "training": {"teacher_epochs": 2, "epochs": 2, "batch": 16, "rounds": 1},
}
ROWS = (
    "weak only",
    "clean labels",
    "trusted only",
    "CFT",
    "CFT, then KD",
    "GLC",
    "three lines",
    "three lines, then KD",
    "three lines, then the method",
    "FixMatch",
    "DivideMix",
    "KD",
    "the method",
)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """The recipe and its data, rendered once for all rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKD_EDGE_CACHE", str(tmp_path_factory.mktemp("data")))
        recipe = Recipe.model_validate(RECIPE)
        return recipe, load_training_data(recipe, open_cache())


def scramble_truth(data):
    """The same data with other true labels wherever nobody checked: a row that uses one gives another network."""
    hidden = np.where(data.trusted, data.truth, (data.truth + 3) % len(data.clips.classes))
    train = replace(data.clips.train, labels=hidden)  # the hash stays, as if the clips were listed so
    return replace(data, truth=hidden, clips=replace(data.clips, train=train))


def test_the_list_of_rows_is_complete(suites):
    from bench.suites.method.ground import GROUND_ROWS

    assert tuple(row.name for row in GROUND_ROWS) == ROWS


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_deterministic_and_sees_no_true_label(suites, material, monkeypatch, tmp_path, name):
    """Trained twice, without a common cache; the second time with other true labels of all clips nobody checked."""
    from bench.suites.method.baselines.study import make_study
    from bench.suites.method.ground import find_ground_row

    recipe, data = material
    logits = []
    for number, seen in enumerate((data, scramble_truth(data))):
        monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / f"cache {number}"))
        with Run(tmp_path / f"run {number}", resolved_yaml(recipe)) as run:
            outcome = find_ground_row(name).train(make_study(recipe, seen, run))
        logits.append(predict(outcome.network, data.clips.val, inference_preprocessing(recipe.clip)[1]))
        assert 0 <= outcome.accuracy <= 1
        assert outcome.epochs == 2
        assert outcome.seconds > 0
        assert outcome.labels is None or outcome.labels.shape == data.truth.shape
    assert np.isfinite(logits[0]).all()
    assert np.array_equal(logits[0], logits[1])


@pytest.mark.parametrize(
    ("name", "uses_weak", "uses_checked"),
    [("weak only", True, False), ("trusted only", False, True), ("FixMatch", False, True), ("GLC", True, True)],
)
def test_a_row_uses_the_labels_that_its_name_promises(
    suites, material, monkeypatch, tmp_path, name, uses_weak, uses_checked
):
    from bench.suites.method.baselines.study import make_study
    from bench.suites.method.ground import find_ground_row

    recipe, data = material
    other_weak = replace(data, weak_labels=np.roll(data.weak_labels, 1), weak_hash="other weak")
    moved = np.where(data.trusted_labels >= 0, (data.trusted_labels + 1) % 10, -1)
    other_checked = replace(data, trusted_labels=moved, weak_hash="other checks")
    logits = []
    for number, seen in enumerate((data, other_weak, other_checked)):
        monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / f"cache {number}"))
        with Run(tmp_path / f"run {number}", resolved_yaml(recipe)) as run:
            outcome = find_ground_row(name).train(make_study(recipe, seen, run))
        logits.append(predict(outcome.network, data.clips.val, inference_preprocessing(recipe.clip)[1]))
    assert np.array_equal(logits[0], logits[1]) == (not uses_weak)
    assert np.array_equal(logits[0], logits[2]) == (not uses_checked)


# ------------------------------------------------------------------------------------------ formulas
def test_glc_corrects_the_likelihood_of_weak_labels(suites):
    from bench.suites.method.baselines.glc import (
        compute_log_likelihood,
        forward_corrected_loss,
        measure_noise_matrix,
    )

    predictions = np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]], np.float32)
    matrix = measure_noise_matrix(predictions, np.array([0, 0, 1]))
    assert np.allclose(matrix, [[0.7, 0.3], [0.1, 0.9]])
    assert np.array_equal(measure_noise_matrix(predictions[:2], np.array([0, 0]))[1], [0, 1])
    likelihood = compute_log_likelihood(np.array([1, -1]), matrix)
    p = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    loss = forward_corrected_loss(p.log(), torch.from_numpy(likelihood), temperature=1.0)
    expected = -np.log(0.25 * 0.3 + 0.75 * 0.9) / 2  # the second clip has no weak label: no loss
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_three_lines_are_bayes_rule(suites):
    from bench.suites.method.baselines.three_lines import combine_with_weak_labels, count_noise_matrix

    true, weak = np.array([0] * 8 + [1] * 8), np.array([0] * 4 + [1] * 4 + [1] * 8)
    matrix = count_noise_matrix(true, weak, 2, prior=1e-3)
    assert np.allclose(matrix, [[0.5, 0.5], [0, 1]], atol=1e-3)
    assert np.allclose(count_noise_matrix(true, weak, 2, prior=1e6)[0, 0], 13 / 18, atol=1e-3)
    probabilities = np.array([[0.5, 0.5], [0.5, 0.5], [0.9, 0.1]], np.float32)
    posterior = combine_with_weak_labels(probabilities, np.array([1, 0, -1]), matrix)
    assert np.allclose(posterior, [[1 / 3, 2 / 3], [1, 0], [0.9, 0.1]], atol=2e-3)


def test_fixmatch_learns_from_confident_predictions_only(suites):
    from bench.suites.method.baselines.fixmatch import compute_consistency_loss

    weak = torch.tensor([[9.0, 0.0], [0.5, 0.0]], requires_grad=True)
    strong = torch.tensor([[0.0, 0.0], [0.0, 5.0]], requires_grad=True)
    loss = compute_consistency_loss(weak, strong)
    assert loss.item() == pytest.approx(np.log(2) / 2, rel=1e-5)
    loss.backward()
    assert weak.grad is None  # no gradient flows into the guess
    assert strong.grad[1].abs().sum() == 0


def test_dividemix_divides_by_loss_and_trusts_people(suites):
    from bench.suites.method.baselines.dividemix import fit_clean_probability, sharpen

    rng = np.random.default_rng(0)
    losses = np.concatenate([rng.normal(0.2, 0.05, 60), rng.normal(2.5, 0.3, 40), [9.0, 0.1]]).astype(np.float32)
    labels, checked = np.zeros(102, np.int64), np.zeros(102, bool)
    checked[100], labels[101] = True, -1
    clean = fit_clean_probability(losses, labels, checked)
    assert (clean[:60] > 0.9).all()
    assert (clean[60:100] < 0.1).all()
    assert clean[100] == 1
    assert clean[101] == 0
    assert (clean[:100] < 1).all()
    assert np.allclose(sharpen(torch.tensor([[0.8, 0.2]])).numpy(), [[16 / 17, 1 / 17]])


def test_checked_clips_are_repeated_with_other_augmentation(suites, material, monkeypatch, tmp_path):
    from bench.suites.method.baselines.study import make_study

    recipe, data = material
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "cache"))
    with Run(tmp_path / "run", resolved_yaml(recipe)) as run:
        repeated = make_study(recipe, data, run).repeat_checked_clips()
    assert len(repeated.clips.train) == 100
    assert len(set(repeated.clips.train.ids.tolist())) == 100  # every copy has its own views
    assert set(repeated.clips.train.names) == {
        n for n, t in zip(data.clips.train.names, data.trusted, strict=True) if t
    }
    assert repeated.trusted is None
    assert (repeated.weak_labels >= 0).all()


def test_two_rows_that_need_the_same_job_at_the_same_time_train_it_once(suites, material, monkeypatch, tmp_path):
    from bench.suites.method.baselines.study import make_study

    recipe, data = material
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "cache"))

    def train(name):
        with Run(tmp_path / name, resolved_yaml(recipe)) as run:
            return make_study(recipe, data, run).train_alone(data)

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(train, ("one", "two"))
    assert one.seconds == two.seconds  # measured once: the second came from the cache


def test_both_networks_of_dividemix_continue_at_half_the_rate(suites, material, monkeypatch, tmp_path):
    from bench.suites.method.baselines.dividemix import DivideMixTrainer, train_dividemix
    from bench.suites.method.baselines.study import make_study

    recipe, data = material
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "cache"))
    rates, step = [], DivideMixTrainer.train_step

    def train_step(self, *args):
        terms = step(self, *args)
        rates.append((self.spec.seed, len(self.curve), self.rate_scale))
        if len(rates) in spoiled:
            next(self.learner.parameters()).data.fill_(torch.nan)
        return terms

    monkeypatch.setattr(DivideMixTrainer, "train_step", train_step)
    steps = 6  # 100 clips in batches of 16; the second network's second epoch is the fourth
    spoiled = [4 * steps]
    with Run(tmp_path / "run", resolved_yaml(recipe)) as run:
        outcome = train_dividemix(make_study(recipe, data, run))
    assert [epoch for _, epoch, _ in rates[::steps]] == [0, 0, 1, 1, 1, 1]
    assert [scale for *_, scale in rates[::steps]] == [1, 1, 1, 1, 0.5, 0.5]
    assert all(p.isfinite().all() for p in outcome.network.parameters())

    rates.clear()
    spoiled = [4 * steps, 5 * steps]
    with (
        Run(tmp_path / "again", resolved_yaml(recipe)) as run,
        pytest.raises(UserError, match=r"also at half the rate; lower training\.rate"),
    ):
        train_dividemix(make_study(recipe, data, run))
