"""The loss on feature distributions, against the closed form of the distance, and its weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.distill.losses.distribution import DistributionLoss, gaussian_w2


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


def staged(seed: int, widths: tuple[int, ...], batch: int = 6) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 4, w, generator=g) for w in widths]


def test_moments_of_the_whole_batch_are_those_of_its_frames():
    """The loss pools clip moments; that must equal the distance of all frames together."""
    ours, theirs = (f.double() for f in staged(0, (5, 5)))
    clip = ((ours.mean(1) - theirs.mean(1)) ** 2).mean()
    spread = ((ours.std(1, correction=0) - theirs.std(1, correction=0)) ** 2).mean()
    whole = gaussian_w2(ours.flatten(0, 1), theirs.flatten(0, 1))
    assert DistributionLoss._distance(ours, theirs).item() == pytest.approx((clip + spread + whole).item(), rel=1e-4)


def test_the_teachers_scale_does_not_matter():
    torch.manual_seed(0)
    loss = DistributionLoss((3,), (5,)).eval()
    (ours,), (theirs,) = staged(0, (3,)), staged(1, (5,))
    base = loss([ours], [theirs]).item()
    with torch.no_grad():
        loss.project[0].weight.mul_(10)
        loss.project[0].bias.mul_(10)
    assert loss([ours], [10 * theirs]).item() == pytest.approx(base, rel=1e-4)


def test_no_substage_drowns_the_others():
    """A substage whose discrepancy is a hundred times another's gets a hundredth of its weight."""
    torch.manual_seed(0)
    loss = DistributionLoss((3, 3), (3, 3)).train()
    loss.discrepancy.copy_(torch.tensor([100.0, 1.0]))
    loss.momentum = 1.0  # keeps them
    ours, theirs = staged(0, (3, 3)), staged(1, (3, 3))
    each = [
        DistributionLoss._distance(loss.project[k](ours[k]) / s, theirs[k] / s).item()
        for k, s in enumerate(t.std(correction=0) + 1e-6 for t in theirs)
    ]
    expected = (each[0] * 0.01 + each[1]) / (0.01 + 1)
    assert loss(ours, theirs).item() == pytest.approx(expected, rel=1e-4)


def test_discrepancies_follow_in_training_only_and_travel_with_the_state():
    torch.manual_seed(0)
    loss = DistributionLoss((3, 4), (5, 6))
    ours, theirs = staged(0, (3, 4)), staged(1, (5, 6))
    loss.eval()(ours, theirs)
    assert not loss.discrepancy.any()
    loss.train()(ours[:1], theirs[:1])  # only the first substage runs yet
    assert loss.discrepancy[0] > 0
    assert loss.discrepancy[1] == 0
    first = loss.discrepancy.clone()
    other = staged(2, (3, 4))
    loss(other, theirs)
    assert loss.discrepancy[0] != first[0]
    assert abs(loss.discrepancy[0] - first[0]) < abs(first[0])
    assert "discrepancy" in loss.state_dict()


def test_projectors_learn_and_the_teacher_does_not():
    torch.manual_seed(0)
    loss = DistributionLoss((3,), (5,))
    (ours,), (theirs,) = staged(0, (3,)), staged(1, (5,))
    loss([ours.requires_grad_()], [theirs]).backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in loss.parameters())
    assert ours.grad.norm() > 0
