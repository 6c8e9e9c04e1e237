"""Labels of a weak model: fitted on other clips, wrong at the requested rate, with errors that lie together."""

from __future__ import annotations

import numpy as np
import pytest

from skd_bench.errors import UserError
from skd_edge.data.sources.synthetic import render_clip
from skd_edge.labels.sources.weak_model import answer_as_weak_model, compute_motion_energy, draw_held_out_clips
from skd_edge.recipe.labels import NoiseSettings


def blobs(n, classes=4, spread=1.6, seed=0):
    """Features of overlapping classes ``(n, 6)``, and the classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = np.random.default_rng(99).normal(size=(classes, 6)) * 1.5
    return centres[labels] + spread * rng.normal(size=(n, 6)), labels


@pytest.fixture(scope="module")
def features():
    (fit_x, fit_y), (x, y) = blobs(200), blobs(600, seed=1)
    return (fit_x, x), (fit_y, y)


def test_the_error_rate_is_found_by_bisection(features):
    x, y = features
    answers = {rate: answer_as_weak_model(x, y, NoiseSettings(kind="model", rate=rate), 0) for rate in (0.25, 0.4)}
    for rate, found in answers.items():
        assert found.error_rate == pytest.approx(rate, abs=0.03)
        assert found.error_rate == (found.labels != y[1]).mean()
    assert answers[0.4].fitted_count < answers[0.25].fitted_count < 200
    again = answer_as_weak_model(x, y, NoiseSettings(kind="model", rate=0.4), 0)
    assert np.array_equal(again.labels, answers[0.4].labels)
    other = answer_as_weak_model(x, y, NoiseSettings(kind="model", rate=0.4), 1)
    assert not np.array_equal(other.labels, again.labels)


def test_errors_lie_together_in_feature_space(features):
    """A wrong label's nearest clip has the same wrong label far more often than with random noise of equal rate."""
    x, y = features
    weak = answer_as_weak_model(x, y, NoiseSettings(kind="model", rate=0.4), 0).labels
    distance = ((x[1][:, None] - x[1][None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    nearest, wrong = distance.argmin(1), weak != y[1]
    assert (weak[nearest] == weak)[wrong].mean() > 0.4  # with random errors: below 0.25


def test_it_abstains_where_it_is_least_sure_and_draws_at_a_temperature(features):
    x, y = features
    quiet = answer_as_weak_model(x, y, NoiseSettings(kind="model", rate=0.3, abstain=0.25), 0)
    assert (quiet.labels < 0).sum() == 150
    assert quiet.error_rate == (quiet.labels != y[1])[quiet.labels >= 0].mean()
    warm = answer_as_weak_model(x, y, NoiseSettings(kind="model", rate=0.4, temperature=1.0), 0)
    assert warm.fitted_count > answer_as_weak_model(x, y, NoiseSettings(kind="model", rate=0.4), 0).fitted_count


@pytest.mark.parametrize(("rate", "way"), [(0.01, "raise labels.noise.rate"), (0.97, "lower labels.noise.rate")])
def test_a_rate_that_cannot_be_reached_is_refused(features, rate, way):
    with pytest.raises(UserError, match=rf"cannot reach an error rate of {rate:.0%}.*{way}"):
        answer_as_weak_model(*features, NoiseSettings(kind="model", rate=rate), 0)


def test_one_class_is_refused():
    x = np.zeros((4, 2))
    with pytest.raises(UserError, match="two classes"):
        answer_as_weak_model((x, x), (np.zeros(4, int), np.zeros(4, int)), NoiseSettings(kind="model", rate=0.4), 0)


def test_held_out_clips_are_the_same_share_of_each_class():
    labels = np.array([0] * 40 + [1] * 20 + [2] + [-1] * 9)
    held_out = draw_held_out_clips(labels, NoiseSettings(kind="model", held_out=0.25), 3)
    assert np.bincount(labels[held_out], minlength=3).tolist() == [10, 5, 0]
    assert not held_out[labels < 0].any()
    assert np.array_equal(held_out, draw_held_out_clips(labels, NoiseSettings(kind="model", held_out=0.25), 3))
    assert not np.array_equal(held_out, draw_held_out_clips(labels, NoiseSettings(kind="model", held_out=0.25), 4))


def test_motion_energy_tells_directions_and_growth_apart():
    def mean_features(motion):
        clips = [render_clip(motion, frames=6, size=24, difficulty=0.0, seed=s) for s in range(24)]
        return compute_motion_energy(np.stack(clips))[:, -4:].mean(0)  # x, y, growth, turn

    found = {m: mean_features(m) for m in ("move_left", "move_right", "move_up", "move_down", "grow", "shrink")}
    assert np.sign(found["move_left"][0]) == -np.sign(found["move_right"][0])
    assert np.sign(found["move_up"][1]) == -np.sign(found["move_down"][1])
    assert np.sign(found["grow"][2]) == -np.sign(found["shrink"][2])


def test_motion_energy_of_one_frame_and_of_a_tiny_clip():
    found = compute_motion_energy(np.zeros((2, 1, 3, 3, 3), np.uint8))
    assert np.isfinite(found).all()
    assert len(found) == 2
