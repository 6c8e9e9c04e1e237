"""What every loss must be: scalar, finite, right in its gradient, safe at the edges; a new loss joins with one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

import skd_edge.distill.losses as losses
from skd_edge.distill.losses.correlation import correlate
from skd_edge.distill.losses.distribution import DistributionLoss, gaussian_w2
from skd_edge.distill.losses.labels import early_learning, soft_cross_entropy
from skd_edge.distill.losses.logits import distil_logits

B, T, C = 5, 3, 4


def _projected(x: Tensor, y: Tensor) -> Tensor:
    """The distribution loss of one substage, its projector the identity."""
    loss = DistributionLoss((x.shape[2],), (y.shape[2],)).to(torch.promote_types(x.dtype, torch.float32)).eval()
    with torch.no_grad():
        loss.project[0].weight.copy_(torch.eye(x.shape[2]))
        loss.project[0].bias.zero_()
    return loss([x], [y])


@dataclass(frozen=True)
class Case:
    """One loss as ``f(learner, teacher)``; shape without the batch; whether it is 0 where the two are equal."""

    name: str
    module: str
    call: Callable[[Tensor, Tensor], Tensor]
    shape: tuple[int, ...]
    zero_at_equality: bool
    at_least_zero: bool = True


CASES = [
    Case("kd", "logits", lambda x, y: distil_logits(x, y, temperature=2.0, standardise=False), (C,), True),
    Case("standardised kd", "logits", lambda x, y: distil_logits(x, y, temperature=2.0), (C,), True),
    Case("labels", "labels", lambda x, y: soft_cross_entropy(x, torch.softmax(y, 1)), (C,), False),
    Case("elr", "labels", lambda x, y: early_learning(x, 0.7 * torch.softmax(y, 1)), (C,), False, False),
    Case("correlation", "correlation", lambda x, y: correlate([x], [y]), (T, C), True),
    Case("correlation of two", "correlation", lambda x, y: correlate([x, x**2], [y, y**2]), (T, C), True),
    Case("w2", "distribution", gaussian_w2, (C,), True),
    Case("distribution", "distribution", _projected, (T, C), True),
]
every = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def drawn(case: Case, batch: int = B, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(batch, *case.shape, generator=g, dtype=torch.float64).to(dtype) for _ in range(2))
    return x.requires_grad_(), y


def test_every_loss_is_here():
    files = {p.stem for p in Path(losses.__file__).parent.glob("*.py")} - {"__init__", "precision"}
    assert {c.module for c in CASES} == files


@every
@pytest.mark.parametrize("batch", [1, 2, B])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_scalar_finite_and_wide_enough(case, batch, dtype):
    x, y = drawn(case, batch, dtype=dtype)
    loss = case.call(x, y)
    assert loss.shape == ()
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.isfinite(loss)
    assert not case.at_least_zero or loss >= -1e-6
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.shape == x.shape
    assert torch.isfinite(gradient).all()


@every
def test_half_precision_costs_rounding_of_the_input_only(case):
    x, y = drawn(case, dtype=torch.float16)
    wide = case.call(x.detach().double(), y.double())
    assert case.call(x, y).item() == pytest.approx(wide.item(), rel=2e-3, abs=1e-4)


@every
def test_gradient(case):
    x, y = drawn(case)
    assert torch.autograd.gradcheck(lambda x: case.call(x, y), x)


@every
def test_descent_brings_the_learner_closer(case):
    x, y = drawn(case)
    loss = case.call(x, y)
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.norm() > 0
    assert case.call(x - 1e-3 * gradient / gradient.norm(), y) < loss


@every
def test_equality(case):
    x, y = drawn(case)
    if case.zero_at_equality:
        assert case.call(y, y).item() == pytest.approx(0, abs=1e-7)
        assert case.call(x, y) > 1e-3
    else:  # lowest where the learner says what it is told
        assert case.call(y, y) < case.call(x, y)


@every
@pytest.mark.parametrize("value", [0.0, 3.0, -1e4])
@pytest.mark.parametrize("batch", [1, B])
def test_no_variance(case, value, batch):
    x, y = (torch.full((batch, *case.shape), v, requires_grad=True) for v in (value, value))
    loss = case.call(x, y.detach())
    (gradient,) = torch.autograd.grad(loss, x)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


@every
def test_huge_input(case):
    x, y = drawn(case, dtype=torch.float32)
    loss = case.call(1e4 * x, 1e4 * y)
    (gradient,) = torch.autograd.grad(loss, x)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


@every
def test_the_order_of_clips_does_not_matter(case):
    x, y = drawn(case)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert case.call(x[order], y[order]).item() == pytest.approx(case.call(x, y).item(), rel=1e-9)
