"""Properties of all losses: scalar, finite, correct gradient, safe at extreme inputs. A new loss needs a line here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import pytest
import torch
from torch import Tensor

import skd_edge.distill.losses as losses
from skd_edge.distill.losses import LOGIT_LOSSES
from skd_edge.distill.losses.classification import early_learning_loss, soft_cross_entropy
from skd_edge.distill.losses.correlation import correlation_loss
from skd_edge.distill.losses.distribution import DistributionKind, DistributionLoss
from skd_edge.distill.losses.mmd import mmd_loss
from skd_edge.distill.losses.pkt import pkt_loss
from skd_edge.distill.losses.wasserstein import gaussian_w2

B, T, C = 5, 3, 4
HELPERS = {"__init__", "precision", "frames"}

# How a loss changes if learner and teacher are both multiplied by s > 0: not at all, by s**2, or in another way.
Scale = Literal["same", "square", "other"]


def _projected(kind: DistributionKind, x: Tensor, y: Tensor) -> Tensor:
    """The distribution loss of one substage, with the identity as projector."""
    loss = DistributionLoss((x.shape[2],), (y.shape[2],), kind=kind)
    loss = loss.to(torch.promote_types(x.dtype, torch.float32)).eval()
    with torch.no_grad():
        for project in loss.projectors:
            project.weight.copy_(torch.eye(x.shape[2]))
            project.bias.zero_()
    return loss([x], [y])


def _of_two(kind: str, x: Tensor, y: Tensor) -> Tensor:
    """The correlation loss of two substages, the second of another width."""
    return correlation_loss([x, x[..., :2] * x[..., 1:3]], [y, y[..., :2] * y[..., 1:3]], kind=kind)


@dataclass(frozen=True)
class Case:
    """One loss.

    Attributes:
        name: Id of the test case.
        module: File of the loss, without ".py".
        call: ``f(learner, teacher)``.
        shape: Shape of the input without the batch.
        zero_at_equality: Whether the loss is 0 where both are equal.
        at_least_zero: Whether the loss cannot be negative.
        scale: How the loss changes if both sides are scaled.
    """

    name: str
    module: str
    call: Callable[[Tensor, Tensor], Tensor]
    shape: tuple[int, ...]
    zero_at_equality: bool = True
    at_least_zero: bool = True
    scale: Scale = "same"


SCALE_OF_LOGIT_LOSS: dict[str, Scale] = {"kd": "other", "kd-standardised": "same", "dist": "other", "dkd": "other"}
FILE_OF_LOGIT_LOSS = {"kd-standardised": "kd"}
SCALE_OF_KIND: dict[str, Scale] = {"gaussian": "same", "mmd": "same", "pkt": "same"}
CASES = [
    *(
        Case(
            name, FILE_OF_LOGIT_LOSS.get(name, name), partial(f, temperature=2.0), (C,), scale=SCALE_OF_LOGIT_LOSS[name]
        )
        for name, f in LOGIT_LOSSES.items()
    ),
    *(
        Case(f"distribution, {kind}", "distribution", partial(_projected, kind), (T, C), scale=SCALE_OF_KIND[kind])
        for kind in get_args(DistributionKind)
    ),
    Case("labels", "classification", lambda x, y: soft_cross_entropy(x, y.softmax(1)), (C,), False, scale="other"),
    Case("elr", "classification", lambda x, y: early_learning_loss(x, 0.7 * y.softmax(1)), (C,), False, False, "other"),
    Case("correlation", "correlation", lambda x, y: correlation_loss([x], [y]), (T, C)),
    Case("correlation of two", "correlation", partial(_of_two, "gram"), (T, C)),
    Case("correlation, pearson", "correlation", partial(_of_two, "pearson"), (T, C)),
    Case("w2", "wasserstein", gaussian_w2, (C,), scale="square"),
    Case("mmd", "mmd", mmd_loss, (C,)),
    Case("mmd, gaussian", "mmd", partial(mmd_loss, kernel="gaussian"), (C,)),
    Case("pkt", "pkt", pkt_loss, (C,)),
]
every = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def draw_inputs(case: Case, batch: int = B, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(batch, *case.shape, generator=g, dtype=torch.float64).to(dtype) for _ in range(2))
    return x.requires_grad_(), y


def test_every_file_of_losses_has_a_case():
    files = {p.stem for p in Path(losses.__file__).parent.glob("*.py")} - HELPERS
    assert {c.module for c in CASES} == files


@every
@pytest.mark.parametrize("batch", [1, 2, B])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_scalar_finite_and_wide_enough(case, batch, dtype):
    x, y = draw_inputs(case, batch, dtype=dtype)
    loss = case.call(x, y)
    assert loss.shape == ()
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.isfinite(loss)
    assert not case.at_least_zero or loss >= -1e-6
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.shape == x.shape
    assert torch.isfinite(gradient).all()


@every
def test_half_precision_rounds_only_the_input(case):
    x, y = draw_inputs(case, dtype=torch.float16)
    wide = case.call(x.detach().double(), y.double())
    assert case.call(x, y).item() == pytest.approx(wide.item(), rel=2e-3, abs=1e-4)


@every
def test_gradient(case):
    x, y = draw_inputs(case)
    assert torch.autograd.gradcheck(lambda x: case.call(x, y), x)


@every
def test_a_step_against_the_gradient_lowers_the_loss(case):
    x, y = draw_inputs(case)
    loss = case.call(x, y)
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.norm() > 0
    assert case.call(x - 1e-3 * gradient / gradient.norm(), y) < loss


@every
def test_equality(case):
    x, y = draw_inputs(case)
    if case.zero_at_equality:
        assert case.call(y, y).item() == pytest.approx(0, abs=1e-7)
        assert case.call(x, y) > 1e-3
    else:  # lowest where learner and teacher are equal
        assert case.call(y, y) < case.call(x, y)


@every
def test_no_gradient_flows_into_the_teacher(case):
    x, y = draw_inputs(case)
    (gradient,) = torch.autograd.grad(case.call(x, y.requires_grad_()), y, allow_unused=True)
    assert gradient is None


@every
@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_scale(case, factor):
    """If both sides are scaled, each loss changes as its line in CASES says."""
    x, y = draw_inputs(case)
    before, after = case.call(x, y).item(), case.call(factor * x, factor * y).item()
    if case.scale == "other":
        assert after != pytest.approx(before, rel=1e-3)
        assert after != pytest.approx(factor**2 * before, rel=1e-3)
    else:
        assert after == pytest.approx(before * (factor**2 if case.scale == "square" else 1), rel=1e-4)


@pytest.mark.parametrize("name", [n for n, scale in SCALE_OF_LOGIT_LOSS.items() if scale == "other"])
def test_scaled_logits_at_the_scaled_temperature_are_the_square(name):
    """Every logit loss gets the factor T**2 from `temperature_scaled_loss`, exactly once."""
    x, y = (z.detach() for z in draw_inputs(CASES[0]))
    loss = LOGIT_LOSSES[name](x, y, temperature=2.0).item()
    assert LOGIT_LOSSES[name](3 * x, 3 * y, temperature=6.0).item() == pytest.approx(9 * loss, rel=1e-9)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_under_autocast(case, dtype):
    """The products of large features overflow float16, so a loss that computes them in half precision fails here."""
    x, y = draw_inputs(case, dtype=torch.float32)
    plain = case.call(300 * x, 300 * y)
    with torch.autocast("cpu", dtype=dtype):
        loss = case.call(300 * x, 300 * y)
    (gradient,) = torch.autograd.grad(loss, x)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(plain.item(), rel=1e-4, abs=1e-6)
    assert torch.isfinite(gradient).all()


@every
@pytest.mark.parametrize("size", [1e-4, 1e4])
def test_tiny_and_huge_input(case, size):
    x, y = draw_inputs(case, dtype=torch.float32)
    loss = case.call(size * x, size * y)
    (gradient,) = torch.autograd.grad(loss, x)
    assert math.isfinite(loss.item())
    assert torch.isfinite(gradient).all()


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
def test_the_order_of_clips_does_not_matter(case):
    x, y = draw_inputs(case)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert case.call(x[order], y[order]).item() == pytest.approx(case.call(x, y).item(), rel=1e-9)
