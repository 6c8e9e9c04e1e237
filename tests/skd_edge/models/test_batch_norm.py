"""Rows of several pixels: the same results as torch's batch normalisation, with a smaller rounding error."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from skd_edge.models import batch_norm
from skd_edge.models.batch_norm import BatchNorm

SHAPES = ((128, 10, 12, 12), (121, 20, 12, 12), (32, 14, 8, 144), (128, 31, 12, 12), (1, 3, 129, 129))


def draw(shape, seed=0, mean=3.0):
    x = mean + torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.to(memory_format=torch.channels_last)


def step(norm, x, gradient):
    """Output, gradients of x, weight and bias, and the running statistics after one training step."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    out = norm.train()(x)
    out.backward(gradient)
    return out.detach(), x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var


def make(channels):
    norm = BatchNorm(channels, eps=1e-3, momentum=0.2)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, channels))
        norm.bias.copy_(torch.linspace(-1, 1, channels))
    return norm


def plain(norm, dtype=torch.float32):
    """torch's layer with the same parameters and buffers."""
    made = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum).to(dtype)
    made.load_state_dict(norm.state_dict())
    return made


@pytest.fixture
def by_rows(monkeypatch):
    """The shapes that were normalised by rows."""
    shapes, apply = [], batch_norm._NormaliseRows.apply
    monkeypatch.setattr(batch_norm._NormaliseRows, "apply", lambda x, *args: shapes.append(x.shape) or apply(x, *args))
    return shapes


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_that_of_torch_in_double_precision(shape, by_rows):
    x, gradient, norm = draw(shape), draw(shape, 1, mean=0.5), make(shape[1])
    exact = step(plain(norm, torch.float64), x.double(), gradient.double())
    torchs = step(plain(norm), x, gradient)
    ours = step(norm, x, gradient)
    assert by_rows == [shape]
    for one, other, reference in zip(ours, torchs, exact, strict=True):
        error = (one.double() - reference).abs().max()
        # Both round in their own order, so that either may be a little nearer.
        assert error <= max(1.5 * (other.double() - reference).abs().max(), 1e-6 * reference.abs().max())
    assert int(norm.num_batches_tracked) == 1
    assert all(map(torch.equal, step(make(shape[1]), x, gradient.contiguous()), ours))


def test_only_training_steps_with_few_channels_and_many_pixels_are_by_rows(by_rows):
    for x in (draw((128, 34, 12, 12)), draw((128, 16, 12, 12)), draw((8, 10, 4, 4)), draw(SHAPES[0]).contiguous()):
        gradient, norm = torch.ones_like(x).cumsum(0), make(x.shape[1])
        expected = step(plain(norm), x, gradient)
        assert all(map(torch.equal, step(norm, x, gradient), expected))
    norm, x = make(10), draw(SHAPES[0])
    assert torch.equal(norm.eval()(x), plain(norm).eval()(x))
    assert torch.equal(norm.train().double()(x.double()), plain(norm.double(), torch.float64).train()(x.double()))
    assert not by_rows


def test_activations_may_be_in_place_and_parameters_frozen(by_rows):
    x, norm = draw(SHAPES[0]), make(10)
    results = []
    for inplace in (True, False):
        frozen = copy.deepcopy(norm).requires_grad_(False)
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        (nn.Sequential(frozen, nn.ReLU(inplace=inplace)).train()(leaf) ** 2).sum().backward()
        results.append(leaf.grad)
    assert len(by_rows) == 2
    assert torch.equal(*results)
    assert results[0].abs().max() > 0


def test_means_and_variances_are_summed_without_cancellation():
    """A mean of a thousand standard deviations, as after a badly scaled input."""
    x = draw((128, 12, 12, 12), mean=1000.0)
    variance = x.double().var((0, 2, 3))
    norm = make(12)
    norm.train()(x)
    assert torch.allclose(norm.running_var.double(), 0.8 + 0.2 * variance, rtol=1e-4)
