"""Parity of logits, and the bounds for each precision."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from skd_bench.errors import UserError
from skd_export.analysis.parity import ParityBounds, compute_parity, compute_torch_logits, find_violated_bound

finite = st.floats(-1e4, 1e4, width=32)
logits = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=30), elements=finite)


@st.composite
def pairs(draw):
    a = draw(logits)
    b = draw(arrays(np.float32, a.shape, elements=finite))
    return a, b, draw(arrays(np.int64, len(a), elements=st.integers(0, a.shape[1] - 1)))


@given(pairs())
def test_identical_logits_are_perfect(pair):
    a, _, labels = pair
    found = compute_parity(a, a.copy(), labels)
    assert (found["max_abs"], found["relative"], found["agreement"], found["accuracy_drop"]) == (0, 0, 1, 0)
    assert found["flips"] == []
    assert found["cosine"] == pytest.approx(1)
    assert find_violated_bound(found, "fp32") is None
    assert find_violated_bound(found, "int8", ParityBounds(int8_agreement=1.0, int8_drop=0.0)) is None


@given(pairs())
def test_every_number_is_consistent(pair):
    a, b, labels = pair
    found = compute_parity(a, b, labels)
    json.dumps(found, allow_nan=False)
    changed = round((1 - found["agreement"]) * found["n"])
    assert len(found["flips"]) == min(changed, 20)
    assert -1 <= found["cosine"] <= 1
    assert 0 <= found["mean_abs"] <= found["max_abs"]
    assert abs(found["accuracy_drop"]) <= 100 * changed / found["n"] + 1e-9
    margins = [flip["margin"] for flip in found["flips"]]
    assert margins == sorted(margins, reverse=True)
    # The top class changes only if the difference is larger than half of the margin.
    assert all(0 <= margin <= 2 * found["max_abs"] + 1e-6 for margin in margins)


@given(pairs())
def test_swapping_reference_and_candidate_negates_the_drop(pair):
    a, b, labels = pair
    there, back = compute_parity(a, b, labels), compute_parity(b, a, labels)
    assert there["agreement"] == back["agreement"]
    assert there["accuracy_drop"] == pytest.approx(-back["accuracy_drop"])


@given(st.floats(0, 1), st.floats(-100, 100), st.floats(0, 1), st.floats(0, 100))
def test_int8_must_meet_one_of_its_two_bounds(agreement, drop, least, most):
    found = {"n": 100, "agreement": agreement, "accuracy_drop": drop, "relative": 0.5}
    reason = find_violated_bound(found, "int8", ParityBounds(int8_agreement=least, int8_drop=most))
    assert (reason is None) == (agreement >= least or drop <= most + 1e-9)


@given(st.floats(0, 1), st.floats(0, 1))
def test_fp32_must_meet_both_of_its_bounds(agreement, relative):
    found = {"n": 100, "agreement": agreement, "accuracy_drop": 0.0, "relative": relative}
    assert (find_violated_bound(found, "fp32") is None) == (agreement == 1 and relative <= 1e-4)


def test_flips_have_margin_and_label():
    reference = [[3.0, 1.0, 0.0], [0.0, 1.0, 0.9], [2.0, 0.0, 0.0]]
    candidate = [[1.0, 3.0, 0.0], [0.0, 0.9, 1.0], [2.0, 0.0, 0.0]]
    found = compute_parity(reference, candidate, [0, 2, 0])
    assert [(f["clip"], f["reference"], f["candidate"], f["label"]) for f in found["flips"]] == [
        (0, 0, 1, 0),
        (1, 1, 2, 2),
    ]
    assert [f["margin"] for f in found["flips"]] == pytest.approx([2.0, 0.1])
    assert found["agreement"] == pytest.approx(1 / 3)
    assert found["accuracy_drop"] == 0  # one more error and one less


def test_int8_without_labels_must_meet_the_agreement():
    found = compute_parity([[1.0, 0.0]] * 2, [[1.0, 0.0], [0.0, 1.0]])
    assert found["accuracy_drop"] is None
    assert "unknown" in find_violated_bound(found, "int8")


@pytest.mark.parametrize(
    ("a", "b", "labels", "words"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), None, "cannot be compared"),
        (np.zeros((0, 3)), np.zeros((0, 3)), None, "at least one clip"),
        (np.zeros(3), np.zeros(3), None, "shape"),
        (np.zeros((2, 3)), np.array([[0, 0, 0], [0, np.nan, 0]]), None, "exported file.*clip 1"),
        (np.array([[np.inf, 0]]), np.zeros((1, 2)), None, "network.*clip 0"),
        (np.zeros((2, 3)), np.zeros((2, 3)), [0], "2 labels"),
    ],
)
def test_logits_that_cannot_be_compared_are_refused(a, b, labels, words):
    with pytest.raises(UserError, match=words):
        compute_parity(a, b, labels)


def test_an_unknown_precision_is_a_programming_error():
    with pytest.raises(ValueError, match="unknown precision 'int4'"):
        find_violated_bound(compute_parity([[1.0]], [[1.0]]), "int4")


@pytest.mark.parametrize(("flips", "within"), [(0, True), (1, True), (2, False)])
def test_fp16_may_change_the_class_of_one_clip_in_two_hundred(flips, within):
    reference = np.tile([[1.0, 0.0]], (200, 1))
    candidate = reference.copy()
    candidate[:flips] = candidate[:flips, ::-1]
    reason = find_violated_bound(compute_parity(reference, candidate), "fp16")
    assert (reason is None) == within
    assert within or "99.0 % of 200 clips, below 99.5 %" in reason


@pytest.mark.parametrize(("flips", "within"), [(2, True), (3, False)])
def test_bf16_may_change_the_class_of_two_clips_in_two_hundred(flips, within):
    reference = np.tile([[1.0, 0.0]], (200, 1))
    candidate = reference.copy()
    candidate[:flips] = candidate[:flips, ::-1]
    reason = find_violated_bound(compute_parity(reference, candidate), "bf16")
    assert (reason is None) == within
    assert within or "the BF16 file agrees with the network on 98.5 % of 200 clips, below 99.0 %" in reason


def test_torch_logits_concatenate_batches_and_refuse_train_mode(network, clips):
    every = clips(5, 0)
    whole = compute_torch_logits(network, [every])
    assert np.allclose(compute_torch_logits(network, [every[:2], every[2:]]), whole, atol=1e-4)
    assert whole.shape == (5, 5)
    with pytest.raises(UserError, match="no clips"):
        compute_torch_logits(network, [])
    with pytest.raises(UserError, match="train mode"):
        compute_torch_logits(torch.nn.Dropout(), [every])
