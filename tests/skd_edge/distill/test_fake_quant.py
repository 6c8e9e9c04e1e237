"""Fake quantisation: the grids of weights and inputs, and a network that is trained with it."""

import numpy as np
import pytest
import torch
from torch import nn

from skd_edge.distill.fake_quant import enable_fake_quant, fake_quantize_input, fake_quantize_weight
from skd_edge.models.tsm import build_tsm
from skd_edge.recipe.schema import NetworkSpec


@pytest.mark.parametrize(("quant_max", "steps"), [(127, 255), (64, 129)])
def test_weights_lie_on_the_grid_of_their_channel(quant_max, steps):
    weight = (
        torch.randn(4, 300, 3, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1e-3, 1, 50, 0])[:, None, None]
    )
    rounded = fake_quantize_weight(weight, quant_max)
    for channel, row in zip(weight, rounded, strict=True):
        assert len(row.unique()) <= steps
        assert (row - channel).abs().max() <= channel.abs().max() / quant_max / 2 * 1.001
    assert (rounded[3] == 0).all()


@pytest.mark.parametrize("x", [torch.linspace(-1, 3, 9999), torch.linspace(2, 3, 9999), torch.zeros(5)])
def test_inputs_have_256_values_and_zero_is_one_of_them(x):
    rounded = fake_quantize_input(torch.cat((x, torch.zeros(1))))
    assert len(rounded.unique()) <= 256
    assert rounded[-1] == 0
    assert (rounded[:-1] - x).abs().max() <= (max(float(x.max()), 0) - min(float(x.min()), 0)) / 255 * 0.501 + 1e-9


def test_a_rounding_network_has_gradients_and_the_same_names_of_weights():
    net = build_tsm(
        NetworkSpec(name="n", depths=(1, 1), width=8, temporal="shift"), classes=3, frames=2, size=16, seed=0
    )
    plain = build_tsm(
        NetworkSpec(name="n", depths=(1, 1), width=8, temporal="shift"), classes=3, frames=2, size=16, seed=0
    )
    x = torch.randn(8, 3, 2, 16, 16, generator=torch.Generator().manual_seed(1))
    enable_fake_quant(net, 7)
    assert net.state_dict().keys() == plain.state_dict().keys()
    coarse, fine = net(x).logits, plain(x).logits
    assert 0 < (coarse - fine).abs().max() < 0.5 * fine.std()
    nn.functional.cross_entropy(coarse, torch.arange(8) % 3).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert sum(float(p.grad.abs().sum()) > 0 for p in net.parameters()) > 10
    plain.load_state_dict(net.state_dict())
    np.testing.assert_allclose(plain.eval()(x).logits.detach(), net.eval()(x).logits.detach(), atol=0.5)
