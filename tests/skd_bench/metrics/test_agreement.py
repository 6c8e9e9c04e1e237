"""Agreement and difference in accuracy of two files on the same clips."""

import numpy as np
import pytest

from skd_bench.errors import UserError
from skd_bench.metrics.agreement import compute_agreement


def logits(*shares: float) -> np.ndarray:
    """Two-class logits; `shares` are the probabilities of the second class, clip by clip."""
    return np.log(np.array([[1 - s, s] for s in shares]))


def test_two_files_are_compared_on_the_same_clips():
    got = compute_agreement(logits(0.9, 0.9, 0.1, 0.1), logits(0.9, 0.1, 0.9, 0.1), [1, 1, 1, 0])
    assert got["agreement"] == 0.5
    assert got["difference"] == 0
    assert (got["only_this"], got["only_reference"], got["n"]) == (1, 1, 4)
    assert got["mcnemar"] == 1
    grouped = compute_agreement(logits(0.9, 0.9), logits(0.1, 0.1), [1, 1], groups=["one", "one"])
    assert grouped["difference"] == 1
    with pytest.raises(ValueError, match="the same clips and classes"):
        compute_agreement(logits(0.5), logits(0.5, 0.5), [0])


def test_a_file_agrees_with_itself():
    answers = logits(0.9, 0.2, 0.6)
    got = compute_agreement(answers, answers, [1, 1, 0])
    assert got["agreement"] == 1
    assert (got["difference"], got["difference_interval"]) == (0, [0, 0])
    assert (got["mcnemar"], got["only_this"], got["only_reference"]) == (1, 0, 0)


def test_swapping_the_files_changes_the_sign_of_the_difference():
    one, other, labels = logits(0.9, 0.9, 0.9, 0.1), logits(0.9, 0.1, 0.1, 0.1), [1, 1, 1, 1]
    forward, backward = compute_agreement(one, other, labels), compute_agreement(other, one, labels)
    assert forward["difference"] == -backward["difference"] == 0.5
    assert forward["agreement"] == backward["agreement"]
    assert (forward["only_this"], forward["only_reference"]) == (2, 0)
    assert (backward["only_this"], backward["only_reference"]) == (0, 2)


def test_agreement_of_no_clips_is_refused():
    with pytest.raises(UserError, match="no clip"):
        compute_agreement(np.zeros((0, 2)), np.zeros((0, 2)), [])
