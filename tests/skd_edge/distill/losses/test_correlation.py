"""Correlation of substages: who resembles whom, whatever the width, scale or basis of the features."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.distill.losses.correlation import correlate, relation


def features(seed: int, batch: int, width: int) -> torch.Tensor:
    return torch.randn(batch, 3, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), batch=st.integers(2, 8), width=st.integers(2, 9))
def test_a_relation_is_a_cosine_gram_matrix(seed, batch, width):
    r = relation(features(seed, batch, width))
    assert r.shape == (batch, batch)
    assert torch.allclose(r, r.T)
    assert torch.allclose(r.diagonal(), torch.ones(batch, dtype=torch.float64))
    assert torch.linalg.eigvalsh(r).min() > -1e-9


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_scale_shift_and_rotation_of_features_do_not_matter(seed, scale, shift):
    ours, theirs = features(seed, 6, 4), features(seed + 1, 6, 7)
    basis, _ = torch.linalg.qr(features(seed + 2, 1, 4)[0].T @ features(seed + 3, 1, 4)[0] + torch.eye(4))
    loss = correlate([ours], [theirs]).item()
    assert correlate([scale * (ours @ basis) + shift], [theirs]).item() == pytest.approx(loss, rel=1e-6)


def test_several_substages():
    """The mean over substages of the relations' differences, plus how relations change from one to the next."""
    ours, theirs = [features(i, 5, 2 + i) for i in range(3)], [features(10 + i, 5, 4 + i) for i in range(3)]
    a, b = [relation(f) for f in ours], [relation(f) for f in theirs]
    same = sum(((x - y) ** 2).mean() for x, y in zip(a, b, strict=True))
    steps = sum((((a[k + 1] - a[k]) - (b[k + 1] - b[k])) ** 2).mean() for k in range(2))
    assert correlate(ours, theirs).item() == pytest.approx(((same + steps) / 3).item(), rel=1e-9)


def test_unequal_counts_are_an_error():
    with pytest.raises(ValueError, match="argument 2 is"):
        correlate([features(0, 4, 3)], [features(0, 4, 3), features(1, 4, 3)])
