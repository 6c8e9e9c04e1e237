"""Maximum mean discrepancy: against the mean over all pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.distill.losses.mmd import mmd_loss


def formula(a: np.ndarray, b: np.ndarray, kernel: str) -> float:
    """The mean of the kernel over all pairs, pair by pair."""
    spread = 2 * b.var(0).sum() + 1e-6

    def k(x: np.ndarray, y: np.ndarray) -> float:
        if kernel == "gaussian":
            return np.exp(-((x - y) ** 2).sum() / spread)
        return (x @ y / np.linalg.norm(x) / np.linalg.norm(y) + 1) ** 2

    def mean(p: np.ndarray, q: np.ndarray) -> float:
        return float(np.mean([[k(x, y) for y in q] for x in p]))

    return mean(a, a) + mean(b, b) - 2 * mean(a, b)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 8),
    m=st.integers(2, 8),
    c=st.integers(1, 6),
    kernel=st.sampled_from(["polynomial", "gaussian"]),
)
def test_formula(seed, n, m, c, kernel):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(1, 2, (n, c)), rng.normal(-1, 0.5, (m, c))
    distance = mmd_loss(torch.from_numpy(a), torch.from_numpy(b), kernel=kernel).item()
    assert distance == pytest.approx(formula(a, b, kernel), rel=1e-6, abs=1e-9)
    assert distance >= -1e-12


@pytest.mark.parametrize("kernel", ["polynomial", "gaussian"])
def test_groups_are_compared_one_by_one_and_the_order_within_them_does_not_matter(kernel):
    a, b = torch.randn(2, 4, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert mmd_loss(a, a.flip(1), kernel=kernel).item() == pytest.approx(0, abs=1e-12)
    assert mmd_loss(a, a.flip(0), kernel=kernel) > 1e-3
    if kernel == "polynomial":  # the width of the Gaussian kernel depends on all groups
        one_by_one = torch.stack([mmd_loss(x, y) for x, y in zip(a, b, strict=True)]).mean()
        assert mmd_loss(a, b).item() == pytest.approx(one_by_one.item(), rel=1e-9)


def test_the_sign_of_samples_matters():
    a = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) + 1
    assert mmd_loss(a, -a) > 0.1
