"""Probabilistic knowledge transfer: against its formula, and what does not change it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.distill.losses.pkt import pkt_loss


def neighbours(x: np.ndarray) -> np.ndarray:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    alike = (unit @ unit.T + 1) / 2
    return alike / alike.sum(1, keepdims=True)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 9), c=st.integers(2, 6), d=st.integers(2, 6))
def test_formula(seed, n, c, d):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(1, 1, (n, c)), rng.normal(1, 1, (n, d))
    q, p = neighbours(a), neighbours(b)
    expected = (p * np.log(p / q)).sum(1).mean()
    assert pkt_loss(torch.from_numpy(a), torch.from_numpy(b)).item() == pytest.approx(expected, rel=1e-2, abs=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100))
def test_scale_and_rotation_do_not_matter(seed, scale):
    g = torch.Generator().manual_seed(seed)
    a, b, r = (torch.randn(6, 4, generator=g, dtype=torch.float64) for _ in range(3))
    basis, _ = torch.linalg.qr(r[:4])
    assert pkt_loss(scale * a @ basis, b).item() == pytest.approx(pkt_loss(a, b).item(), rel=1e-6)
    assert pkt_loss(scale * b @ basis, b).item() == pytest.approx(0, abs=1e-9)


def test_opposite_samples_give_a_finite_loss():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    loss = pkt_loss(x, torch.tensor([[1.0, 0.0], [1.0, 0.1]]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()
