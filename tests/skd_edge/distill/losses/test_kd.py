"""Distillation on logits: against the formula in float64, and the properties that the docstrings state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.distill.losses.kd import kd_loss, standardise_logits, standardised_kd_loss


def formula(learner: np.ndarray, teacher: np.ndarray, t: float, standardise: bool) -> float:
    """``T^2 * mean_b sum_c p log(p / q)``."""
    if standardise:
        learner, teacher = ((z - z.mean(1, keepdims=True)) / z.std(1, keepdims=True) for z in (learner, teacher))

    def log_softmax(z: np.ndarray) -> np.ndarray:
        z = z - z.max(1, keepdims=True)
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    log_p, log_q = log_softmax(teacher / t), log_softmax(learner / t)
    return t**2 * (np.exp(log_p) * (log_p - log_q)).sum(1).mean()


def logits(seed: int, batch: int, classes: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(batch, classes)), scale * rng.normal(size=(batch, classes))


cases = {
    "seed": st.integers(0, 10_000),
    "batch": st.integers(1, 9),
    "classes": st.integers(3, 20),
    "t": st.floats(0.5, 10),
    "standardise": st.booleans(),
}


@settings(max_examples=40, deadline=None)
@given(**cases, scale=st.floats(0.5, 20))
def test_formula(seed, batch, classes, t, standardise, scale):
    x, y = logits(seed, batch, classes, scale)
    loss = (standardised_kd_loss if standardise else kd_loss)(torch.from_numpy(x), torch.from_numpy(y), temperature=t)
    assert loss.item() == pytest.approx(formula(x, y, t, standardise), rel=1e-4, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(**{k: v for k, v in cases.items() if k != "standardise"}, a=st.floats(0.1, 100), b=st.floats(0.1, 100))
def test_standardised_is_invariant_to_a_positive_scale_and_a_shift(seed, batch, classes, t, a, b):
    x, y = (torch.from_numpy(z) for z in logits(seed, batch, classes, 3.0))
    loss = standardised_kd_loss(x, y, temperature=t).item()
    assert standardised_kd_loss(a * x + 5, b * y - 2, temperature=t).item() == pytest.approx(loss, rel=1e-3, abs=1e-5)


def test_plain_kd_is_not_invariant_to_scale():
    x, y = (torch.from_numpy(z) for z in logits(0, 4, 5, 1.0))
    plain = kd_loss(x, y, temperature=2.0)
    assert kd_loss(3 * x, y, temperature=2.0) != pytest.approx(plain.item(), rel=0.01)


def test_standardised_rows():
    z = standardise_logits(torch.randn(7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 40 + 3)
    assert torch.allclose(z.mean(1), torch.zeros(7, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(z.std(1, correction=0), torch.ones(7, dtype=torch.float64), atol=1e-6)
