"""The correlation loss: against its formula, and independent of width, scale and basis of the features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.distill.losses.correlation import compute_relation_matrices, correlation_loss


def features(seed: int, batch: int, width: int) -> torch.Tensor:
    return torch.randn(batch, 3, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), batch=st.integers(2, 8), width=st.integers(2, 9))
def test_a_relation_is_a_cosine_gram_matrix(seed, batch, width):
    (r,) = compute_relation_matrices([features(seed, batch, width).flatten(1)])
    assert r.shape == (batch, batch)
    assert torch.allclose(r, r.T)
    assert torch.allclose(r.diagonal(), torch.ones(batch, dtype=torch.float64))
    assert torch.linalg.eigvalsh(r).min() > -1e-9


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_scale_shift_and_rotation_of_features_do_not_matter(seed, scale, shift):
    ours, theirs = features(seed, 6, 4), features(seed + 1, 6, 7)
    basis, _ = torch.linalg.qr(features(seed + 2, 1, 4)[0].T @ features(seed + 3, 1, 4)[0] + torch.eye(4))
    loss = correlation_loss([ours], [theirs]).item()
    assert correlation_loss([scale * (ours @ basis) + shift], [theirs]).item() == pytest.approx(loss, rel=1e-6)


def cosines(x: torch.Tensor) -> torch.Tensor:
    flat = x.flatten(1) - x.flatten(1).mean(0)
    return torch.nn.functional.cosine_similarity(flat[:, None], flat[None], dim=2)


def test_several_substages():
    """The difference of relations plus the difference of their changes between substages, mean over substages."""
    ours, theirs = [features(i, 5, 2 + i) for i in range(3)], [features(10 + i, 5, 4 + i) for i in range(3)]
    a, b = [cosines(f) for f in ours], [cosines(f) for f in theirs]
    same = sum(((x - y) ** 2).mean() for x, y in zip(a, b, strict=True))
    steps = sum((((a[k + 1] - a[k]) - (b[k + 1] - b[k])) ** 2).mean() for k in range(2))
    assert correlation_loss(ours, theirs).item() == pytest.approx(((same + steps) / 3).item(), rel=1e-9)


def test_different_numbers_of_substages_are_an_error():
    with pytest.raises(ValueError, match="argument 2 is"):
        correlation_loss([features(0, 4, 3)], [features(0, 4, 3), features(1, 4, 3)])


def off_diagonal(r: np.ndarray) -> np.ndarray:
    return r[~np.eye(len(r), dtype=bool)].reshape(len(r), -1)


def pearson_distance(a: np.ndarray, b: np.ndarray) -> float:
    """1 - Pearson correlation of the rows without the diagonal, mean over rows, computed by numpy."""
    rows = zip(off_diagonal(a), off_diagonal(b), strict=True)
    return float(np.mean([1 - np.corrcoef(x, y)[0, 1] for x, y in rows]))


def test_pearson_of_clips_and_of_frames():
    """Inter: relations of each clip with the others. Intra: relations of each frame with the others of its clip."""
    ours, theirs = [[torch.randn(5, 4, w, dtype=torch.float64) for w in ws] for ws in ((2, 3), (6, 7))]
    a, b = [[cosines(f).numpy() for f in side] for side in (ours, theirs)]
    inter = sum(pearson_distance(x, y) for x, y in zip(a, b, strict=True)) + pearson_distance(a[1] - a[0], b[1] - b[0])
    intra = 0.0
    for clip in range(5):
        p, q = [[cosines(f[clip]).numpy() for f in side] for side in (ours, theirs)]
        intra += sum(pearson_distance(x, y) for x, y in zip(p, q, strict=True)) + pearson_distance(
            p[1] - p[0], q[1] - q[0]
        )
    loss = correlation_loss(ours, theirs, kind="pearson").item()
    assert loss == pytest.approx((inter + intra / 5) / 2, rel=1e-6)


@pytest.mark.parametrize("kind", ["gram", "pearson"])
def test_more_frames_are_averaged_by_segments(kind):
    ours, theirs = features(0, 6, 4), features(1, 6, 7)
    loss = correlation_loss([ours], [theirs], kind=kind).item()
    assert correlation_loss([ours], [theirs.repeat_interleave(2, 1)], kind=kind).item() == pytest.approx(loss, rel=1e-9)


def test_features_far_from_zero_keep_their_relations():
    """In float32, features must be centred before the products; otherwise rounding removes the differences of clips."""
    ours, theirs = features(0, 6, 4), features(1, 6, 7)
    far = correlation_loss([(ours + 1000).float()], [theirs.float()])
    assert far.item() == pytest.approx(correlation_loss([ours], [theirs]).item(), rel=1e-3)
