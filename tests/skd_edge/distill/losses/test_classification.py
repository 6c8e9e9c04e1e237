"""Losses on labels: cross-entropy against its formula, and properties of early-learning regularisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.distill.losses.classification import early_learning_loss, soft_cross_entropy


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), batch=st.integers(1, 8), classes=st.integers(2, 12), scale=st.floats(0.1, 30))
def test_cross_entropy_formula(seed, batch, classes, scale):
    rng = np.random.default_rng(seed)
    logits, targets = scale * rng.normal(size=(batch, classes)), rng.dirichlet(np.ones(classes), batch)
    log_p = (
        logits
        - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
        - logits.max(1, keepdims=True)
    )
    loss = soft_cross_entropy(torch.from_numpy(logits), torch.from_numpy(targets))
    assert loss.item() == pytest.approx(-(targets * log_p).sum(1).mean(), rel=1e-6, abs=1e-9)


def test_one_hot_targets_give_the_usual_cross_entropy():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    expected = torch.nn.functional.cross_entropy(logits, labels)
    assert soft_cross_entropy(logits, torch.eye(4)[labels]).item() == pytest.approx(expected.item(), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), batch=st.integers(1, 8), classes=st.integers(2, 12))
def test_early_learning_is_at_most_zero_and_lowest_at_agreement(seed, batch, classes):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(5 * rng.normal(size=(batch, classes)))
    memory = torch.from_numpy(rng.uniform(0, 1) * rng.dirichlet(np.ones(classes), batch))
    loss = early_learning_loss(logits, memory)
    assert loss.item() <= 1e-12
    agreeing = early_learning_loss(20.0 * torch.nn.functional.one_hot(memory.argmax(1), classes), memory)
    assert agreeing <= loss + 1e-9


def test_mean_predictions_of_zero_have_no_effect():
    logits = torch.randn(3, 4, requires_grad=True)
    loss = early_learning_loss(logits, torch.zeros(3, 4))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_equal_predictions_give_a_finite_loss():
    logits = 100 * torch.eye(3)
    loss = early_learning_loss(logits.requires_grad_(), torch.eye(3))
    assert loss.item() == pytest.approx(np.log(1e-4), rel=1e-3)
