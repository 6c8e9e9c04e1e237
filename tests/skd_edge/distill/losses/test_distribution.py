"""The loss on feature distributions, against the closed form of the distance, and its weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.distill.losses.distribution import DistributionLoss, gaussian_distances
from skd_edge.distill.losses.wasserstein import gaussian_w2


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


def test_each_substage_is_compared_clip_by_clip_and_as_a_whole_in_the_teachers_unit():
    """All substages are computed at once; each must equal its own distance, written out."""
    ours, theirs = ([f.double() for f in staged(seed, (5, 2, 7))] for seed in (0, 1))
    expected = []
    for a, b in zip((o.numpy() for o in ours), (t.numpy() for t in theirs), strict=True):
        a, b = a / b.std(), b / b.std()
        clips = ((a.mean(1) - b.mean(1)) ** 2 + (a.std(1) - b.std(1)) ** 2).mean()
        a, b = a.reshape(-1, a.shape[2]), b.reshape(-1, b.shape[2])
        expected.append(clips + ((a.mean(0) - b.mean(0)) ** 2 + (a.std(0) - b.std(0)) ** 2).mean())
    assert gaussian_distances(ours, theirs).numpy() == pytest.approx(np.array(expected), rel=1e-4)


def test_the_teachers_scale_does_not_matter():
    torch.manual_seed(0)
    loss = DistributionLoss((3,), (5,)).eval()
    (ours,), (theirs,) = staged(0, (3,)), staged(1, (5,))
    base = loss([ours], [theirs]).item()
    with torch.no_grad():
        loss.projectors[0].weight.mul_(10)
        loss.projectors[0].bias.mul_(10)
    assert loss([ours], [10 * theirs]).item() == pytest.approx(base, rel=1e-4)


def test_no_substage_drowns_the_others():
    """A substage whose discrepancy is a hundred times another's gets a hundredth of its weight."""
    torch.manual_seed(0)
    loss = DistributionLoss((3, 3), (3, 3)).train()
    loss.discrepancy.copy_(torch.tensor([100.0, 1.0]))
    loss.momentum = 1.0  # keeps them
    ours, theirs = staged(0, (3, 3)), staged(1, (3, 3))
    each = gaussian_distances([p(f) for p, f in zip(loss.projectors, ours, strict=True)], theirs).tolist()
    expected = (each[0] * 0.01 + each[1]) / (0.01 + 1)
    assert loss(ours, theirs).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("value", [0.0, 1e-3, 7.3])
@pytest.mark.parametrize("kind", ["gaussian", "mmd", "pkt"])
def test_a_constant_substage_of_the_teacher_neither_explodes_nor_silences_the_others(kind, value):
    torch.manual_seed(0)
    ours, theirs = staged(0, (3, 4)), staged(1, (5, 6))
    dead = [torch.full_like(theirs[0], value), theirs[1]]
    for which in (1, 2):  # alone, as in a curriculum's first part; beside another
        loss = DistributionLoss((3, 4)[:which], (5, 6)[:which], kind=kind).train()
        mine = [f.requires_grad_() for f in ours[:which]]
        value_now = loss(mine, dead[:which])
        gradients = torch.autograd.grad(value_now, mine, allow_unused=True)
        assert 0 <= value_now.item() < 100
        assert all(g is None or g.abs().max() < 100 for g in gradients)
    if kind == "gaussian":
        lone = DistributionLoss((4,), (6,))
        lone.projectors[0].load_state_dict(loss.projectors[1].state_dict())
        assert value_now.item() == pytest.approx(lone([ours[1]], [theirs[1]]).item(), rel=1e-5)


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


@pytest.mark.parametrize("kind", ["gaussian", "mmd"])
def test_projectors_learn_and_the_teacher_does_not(kind):
    torch.manual_seed(0)
    loss = DistributionLoss((3,), (5,), kind=kind)
    (ours,), (theirs,) = staged(0, (3,)), staged(1, (5,))
    loss([ours.requires_grad_()], [theirs]).backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in loss.parameters())
    assert ours.grad.norm() > 0


def test_pkt_needs_no_projector():
    loss = DistributionLoss((3, 4), (5, 6), kind="pkt")
    assert not list(loss.parameters())
    ours = [f.requires_grad_() for f in staged(0, (3, 4))]
    loss(ours, staged(1, (5, 6))).backward()
    assert all(f.grad.norm() > 0 for f in ours)


@pytest.mark.parametrize("kind", ["gaussian", "mmd", "pkt"])
def test_longer_clips_are_compared_by_segments(kind):
    torch.manual_seed(0)
    loss = DistributionLoss((3,), (5,), kind=kind).eval()
    (ours,), (theirs,) = staged(0, (3,)), staged(1, (5,))
    long = theirs.repeat_interleave(2, 1)
    assert loss([ours], [long]).item() == pytest.approx(loss([ours], [theirs]).item(), rel=1e-5)
    assert loss([ours.repeat_interleave(3, 1)], [theirs]).item() == pytest.approx(
        loss([ours], [theirs]).item(), rel=1e-5
    )


def test_a_teachers_dead_substage_leaves_the_others_their_weight():
    torch.manual_seed(0)
    loss = DistributionLoss((3, 3), (3, 3)).train()
    ours, theirs = [f.requires_grad_() for f in staged(0, (3, 3))], staged(1, (3, 3))
    value = loss(ours, [torch.zeros_like(theirs[0]), theirs[1]])
    value.backward()
    assert torch.isfinite(value)
    assert ours[1].grad.norm() > 1e-3
    assert torch.isfinite(ours[0].grad).all()


def test_the_teacher_must_have_as_many_substages():
    with pytest.raises(ValueError, match="argument 2 is"):
        DistributionLoss((3,), (5,))(staged(0, (3,)), staged(0, (5, 5)))
