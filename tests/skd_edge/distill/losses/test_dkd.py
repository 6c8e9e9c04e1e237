"""Decoupled distillation: against its formula, and the settings for which it equals plain distillation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.distill.losses.dkd import dkd_loss
from skd_edge.distill.losses.kd import kd_loss


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def formula(learner: np.ndarray, teacher: np.ndarray, target: np.ndarray, t: float, alpha: float, beta: float) -> float:
    """The parts on the target class and on the other classes of equation 7 of the paper, computed for each clip."""
    total = 0.0
    for z, g, y in zip(learner, teacher, target, strict=True):
        q, p = softmax(z / t), softmax(g / t)
        rest = np.arange(len(z)) != y
        tckd = p[y] * np.log(p[y] / q[y]) + p[rest].sum() * np.log(p[rest].sum() / q[rest].sum())
        p_rest, q_rest = p[rest] / p[rest].sum(), q[rest] / q[rest].sum()
        total += alpha * tckd + beta * (p_rest * np.log(p_rest / q_rest)).sum()
    return t**2 * total / len(learner)


cases = {
    "seed": st.integers(0, 10_000),
    "batch": st.integers(1, 8),
    "classes": st.integers(2, 12),
    "t": st.floats(0.5, 8),
}


@settings(max_examples=40, deadline=None)
@given(**cases, alpha=st.floats(0, 3), beta=st.floats(0, 9))
def test_formula(seed, batch, classes, t, alpha, beta):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(0, 2, (2, batch, classes))
    target = rng.integers(0, classes, batch)
    given_target = dkd_loss(
        *map(torch.from_numpy, (x, y)), temperature=t, target=torch.from_numpy(target), alpha=alpha, beta=beta
    )
    assert given_target.item() == pytest.approx(formula(x, y, target, t, alpha, beta), rel=1e-6, abs=1e-9)
    first_choice = dkd_loss(*map(torch.from_numpy, (x, y)), temperature=t, alpha=alpha, beta=beta)
    assert first_choice.item() == pytest.approx(formula(x, y, y.argmax(1), t, alpha, beta), rel=1e-6, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(**cases | {"batch": st.just(1)})
def test_plain_distillation_is_alpha_one_and_beta_the_probability_of_another_class(seed, batch, classes, t):
    x, y = torch.from_numpy(np.random.default_rng(seed).normal(0, 2, (2, batch, classes)))
    other = 1 - torch.softmax(y / t, 1).max().item()
    assert dkd_loss(x, y, temperature=t, beta=other).item() == pytest.approx(
        kd_loss(x, y, temperature=t).item(), abs=1e-9
    )
