"""The loss on feature distributions: against the closed form of its distance, and the weights of substages."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skd_edge.distill.losses import distribution
from skd_edge.distill.losses.distribution import DistributionLoss, gaussian_distances


def staged(seed: int, widths: tuple[int, ...], batch: int = 6) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 4, w, generator=g) for w in widths]


def test_distances_are_those_of_clips_plus_that_of_the_batch_relative_to_the_teachers_variance():
    """All substages are computed at once; each must equal its own distance, computed separately."""
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


def test_the_weight_of_a_substage_is_inverse_to_its_discrepancy():
    """A substage with a hundred times the discrepancy of another gets a hundredth of its weight."""
    torch.manual_seed(0)
    loss = DistributionLoss((3, 3), (3, 3)).train()
    loss.discrepancy.copy_(torch.tensor([100.0, 1.0]))
    loss.momentum = 1.0  # the discrepancies stay the same
    ours, theirs = staged(0, (3, 3)), staged(1, (3, 3))
    each = gaussian_distances([p(f) for p, f in zip(loss.projectors, ours, strict=True)], theirs).tolist()
    expected = (each[0] * 0.01 + each[1]) / (0.01 + 1)
    assert loss(ours, theirs).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("value", [0.0, 1e-3, 7.3])
@pytest.mark.parametrize("kind", ["gaussian", "mmd", "pkt"])
def test_a_constant_substage_of_the_teacher_gives_no_large_loss_and_leaves_the_others_unchanged(kind, value):
    torch.manual_seed(0)
    ours, theirs = staged(0, (3, 4)), staged(1, (5, 6))
    dead = [torch.full_like(theirs[0], value), theirs[1]]
    for which in (1, 2):  # alone, as at the start of a curriculum, and together with another
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


def test_discrepancies_are_updated_in_training_only_and_are_part_of_the_state():
    torch.manual_seed(0)
    loss = DistributionLoss((3, 4), (5, 6))
    ours, theirs = staged(0, (3, 4)), staged(1, (5, 6))
    loss.eval()(ours, theirs)
    assert not loss.discrepancy.any()
    loss.train()(ours[:1], theirs[:1])  # only the first substage was computed
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
def test_more_frames_are_averaged_by_segments(kind):
    torch.manual_seed(0)
    loss = DistributionLoss((3,), (5,), kind=kind).eval()
    (ours,), (theirs,) = staged(0, (3,)), staged(1, (5,))
    long = theirs.repeat_interleave(2, 1)
    assert loss([ours], [long]).item() == pytest.approx(loss([ours], [theirs]).item(), rel=1e-5)
    assert loss([ours.repeat_interleave(3, 1)], [theirs]).item() == pytest.approx(
        loss([ours], [theirs]).item(), rel=1e-5
    )


def test_a_dead_substage_of_the_teacher_does_not_change_the_weight_of_others():
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


def test_a_registered_kind_is_made_and_a_name_is_given_once(monkeypatch):
    class Constant(DistributionLoss):
        """A distance that is always 1."""

        def forward(self, learner, teacher):
            return torch.ones(())

    monkeypatch.setattr(distribution, "DISTRIBUTION_LOSSES", dict(distribution.DISTRIBUTION_LOSSES))
    distribution.register_distribution_loss("constant", Constant)
    assert distribution.make_distribution_loss("constant", (3,), (5,))([], []) == 1
    assert type(distribution.make_distribution_loss("mmd", (3,), (5,))) is DistributionLoss
    with pytest.raises(ValueError, match="'constant' is registered already"):
        distribution.register_distribution_loss("constant", Constant)
