"""DIST: against its formula, and what does not change it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.distill.losses.dist import dist_loss, pearson_correlation


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def formula(learner: np.ndarray, teacher: np.ndarray, t: float, beta: float, gamma: float) -> float:
    p, q = softmax(learner / t), softmax(teacher / t)

    def distance(
        a: np.ndarray, b: np.ndarray, eps: float = 1e-12
    ) -> float:  # eps as in the docstring of pearson_correlation
        a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
        norms = np.sqrt(((a**2).sum(1) + eps) * ((b**2).sum(1) + eps))
        return float((1 - ((a * b).sum(1) + eps) / norms).mean())

    return t**2 * (beta * distance(p, q) + gamma * distance(p.T, q.T))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(2, 9),
    classes=st.integers(2, 12),
    t=st.floats(0.5, 8),
    beta=st.floats(0, 3),
    gamma=st.floats(0, 3),
)
def test_formula(seed, batch, classes, t, beta, gamma):
    x, y = np.random.default_rng(seed).normal(0, 2, (2, batch, classes))
    loss = dist_loss(torch.from_numpy(x), torch.from_numpy(y), temperature=t, beta=beta, gamma=gamma)
    assert loss.item() == pytest.approx(formula(x, y, t, beta, gamma), rel=1e-6, abs=1e-8)


def test_a_batch_of_one_has_no_relation_between_clips():
    x, y = torch.randn(2, 1, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert dist_loss(x, y, temperature=1.0, beta=0.0).item() == pytest.approx(0, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10), shift=st.floats(-10, 10))
def test_shift_and_scale_do_not_change_pearson(seed, scale, shift):
    a, b = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = [np.corrcoef(x, y)[0, 1] for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert pearson_correlation(a, b).numpy() == pytest.approx(np.array(expected), abs=1e-9)
    assert torch.allclose(pearson_correlation(scale * a + shift, b), pearson_correlation(a, b), atol=1e-6)
    assert torch.allclose(pearson_correlation(a, -a), -torch.ones(3, dtype=torch.float64), atol=1e-6)


def test_pearson_where_nothing_varies():
    flat, varied = torch.ones(2, 4), torch.arange(8.0).reshape(2, 4)
    assert torch.equal(pearson_correlation(flat, 2 * flat), torch.ones(2))
    assert pearson_correlation(flat, varied).abs().max() < 1e-3
    assert torch.equal(pearson_correlation(flat[:, :0], flat[:, :0]), torch.ones(2))
