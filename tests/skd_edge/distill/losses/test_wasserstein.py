"""The Wasserstein distance of Gaussians: against its formula, its properties, and the pooling of moments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.distill.losses.wasserstein import compute_moments, gaussian_w2, pool_moments, w2_by_channel


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 12), m=st.integers(1, 12), c=st.integers(1, 6))
def test_w2_formula(seed, n, m, c):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(1, 2, (n, c)), rng.normal(-1, 0.5, (m, c))
    sd_a, sd_b = (np.sqrt(x.var(0) + 1e-6) for x in (a, b))  # the docstring's guard at zero variance
    expected = ((a.mean(0) - b.mean(0)) ** 2 + (sd_a - sd_b) ** 2).mean()
    distance = gaussian_w2(torch.from_numpy(a), torch.from_numpy(b)).item()
    assert distance == pytest.approx(expected, rel=1e-9)
    assert gaussian_w2(torch.from_numpy(b), torch.from_numpy(a)).item() == pytest.approx(distance, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 50))
def test_w2_grows_with_the_square_of_the_scale_and_not_with_a_shift(seed, scale):
    a, b = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    distance = gaussian_w2(a, b).item()
    assert gaussian_w2(scale * a, scale * b).item() == pytest.approx(scale**2 * distance, rel=1e-3)
    assert gaussian_w2(a + 7, b + 7).item() == pytest.approx(distance, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), groups=st.integers(1, 5), n=st.integers(1, 7), c=st.integers(1, 4))
def test_pooled_moments_of_groups_are_the_moments_of_all_samples(seed, groups, n, c):
    x = np.random.default_rng(seed).normal(3, 2, (groups, n, c))
    mean, variance = pool_moments(compute_moments(torch.from_numpy(x), 1))
    assert mean.numpy() == pytest.approx(x.reshape(-1, c).mean(0), rel=1e-9)
    assert variance.numpy() == pytest.approx(x.reshape(-1, c).var(0), rel=1e-9, abs=1e-12)


def test_the_unit_divides_the_distance_of_each_channel():
    a, b = (compute_moments(torch.randn(2, 9, 3, dtype=torch.float64)[i], 0) for i in range(2))
    unit = torch.tensor([1.0, 4.0, 100.0], dtype=torch.float64)
    scaled = [(mean / unit.sqrt(), variance / unit) for mean, variance in (a, b)]
    assert w2_by_channel(a, b, unit).numpy() == pytest.approx(w2_by_channel(*scaled).numpy(), rel=1e-9)
