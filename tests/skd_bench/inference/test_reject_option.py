"""The lowest threshold that reaches a required accuracy, and its effect on `predict`."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.bundle.manifest import Manifest
from skd_bench.errors import UserError
from skd_bench.inference.predict import predict
from skd_bench.inference.reject_option import RejectOption, choose_threshold
from skd_bench.metrics.accuracy import softmax

CLASSES = ["a", "b"]


def logits_at(confidence):
    """Two-class logits whose first class has this probability."""
    c = np.asarray(confidence, float)
    return np.stack([np.log(c), np.log(1 - c)], 1)


def test_thresholds_computed_by_hand():
    logits = logits_at([0.99, 0.95, 0.9, 0.8, 0.7])
    labels = [0, 0, 1, 0, 1]  # right, right, wrong, right, wrong
    threshold, answered, accuracy = choose_threshold(logits, labels, 0.75)
    assert threshold == pytest.approx(0.8)
    assert answered == 0.8
    assert accuracy.value == 0.75
    assert choose_threshold(logits, labels, 0.9)[0] == pytest.approx(0.95)
    assert choose_threshold(logits, labels, 0.6)[0] == 0.0  # every prediction is accepted
    assert choose_threshold(logits_at([0.9, 0.8]), [1, 0], 0.9) is None


@given(st.integers(0, 10**6), st.floats(0, 1), st.integers(1, 60))
def test_no_other_threshold_accepts_more_clips(seed, goal, n):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(n, 3)).round(1), rng.integers(0, 3, n)
    sure, right = softmax(logits).max(1), logits.argmax(1) == labels
    possible = [(sure >= t).mean() for t in [0.0, *sure] if right[sure >= t].mean() >= goal]
    chosen = choose_threshold(logits, labels, goal)
    assert (chosen is None) == (not possible)
    if chosen is not None:
        assert chosen[1] == max(possible)
        assert chosen[2].value == pytest.approx(right[sure >= chosen[0]].mean())
        assert chosen[2].value >= goal


@pytest.mark.parametrize(
    "entry", [{"threshold": 2}, {"threshold": True}, {"threshold": 0.5, "background": "c"}, 0.5, {}]
)
def test_a_malformed_entry_is_refused(entry):
    with pytest.raises(UserError, match="artefact"):
        RejectOption.from_options({"reject": entry}, CLASSES)


def test_predict_applies_the_threshold_and_the_background_class(tmp_path, bundle, video):
    path = video(tmp_path / "v.mp4", 90)
    manifest = Manifest.load(bundle)
    [plain] = predict(bundle, [path])
    assert "answer" not in plain
    best, share = plain["top"][0]
    cases = ((share, None, best), (min(share + 1e-6, 1.0), None, None), (1.0, manifest.classes[1], manifest.classes[1]))
    for threshold, background, answer in cases:
        options = {"reject": RejectOption(threshold, background).to_json()}
        chosen = dataclasses.replace(manifest.find_artefact(), options=options)
        others = [a for a in manifest.artefacts if a.file != chosen.file]
        dataclasses.replace(manifest, artefacts=[chosen, *others]).save(bundle)
        assert predict(bundle, [path])[0]["answer"] == answer
