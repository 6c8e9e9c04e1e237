"""Temporal operators in 2-D networks: where they come, and what they leave unchanged."""

from __future__ import annotations

import pytest
import torch

from skd_edge.models.external.temporal_insertion import insert_temporal_operators
from skd_edge.models.temporal import TemporalShift, TimeResidual


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(self.conv1(x))


def make_plain():
    """Two stages of convolutions without residual blocks."""
    return torch.nn.Sequential(
        torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU()),
        torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3, 2, 1), torch.nn.ReLU()),
    )


def test_operators_are_inserted_once_into_each_residual_block():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), Block(), Block())
    plain = network.state_dict()["1.conv1.weight"]
    assert insert_temporal_operators(network, 4, "shift") == 2
    shifts = [module for module in network.modules() if isinstance(module, TemporalShift)]
    assert [(shift.frames, shift.fold) for shift in shifts] == [(4, 1), (4, 1)]
    assert torch.equal(network[1].conv1[1].weight, plain)


def test_a_network_without_residual_blocks_gets_them_before_its_substages():
    network = make_plain()
    assert insert_temporal_operators(network, 4, "shift", ("0", "1")) == 2
    assert [type(network[k][0]) for k in (0, 1)] == [TemporalShift, TemporalShift]
    assert insert_temporal_operators(make_plain(), 4, "shift") == 0
    assert insert_temporal_operators(torch.nn.Sequential(torch.nn.Flatten()), 4, "shift", ("0",)) == 0


@pytest.mark.parametrize("make", [make_plain, lambda: torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), Block())])
@torch.no_grad()
def test_the_convolution_changes_nothing_at_the_start_and_then_sees_other_frames(make):
    network, x = make(), torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    before = network(x)
    assert insert_temporal_operators(network, 4, "conv", ("0", "1")) > 0
    assert torch.equal(network(x), before)
    for module in network.modules():
        if isinstance(module, TimeResidual):
            module.conv.weight.fill_(0.1)
    other = x.clone()
    other[1] = 0.0  # the second frame of the first clip
    changed = (network(other) - network(x)).abs().flatten(1).amax(1) > 0
    assert changed.tolist()[:3] == [True, True, True]
    assert not changed[4:].any()


def test_none_changes_nothing():
    network = torch.nn.Sequential(Block())
    names = list(network.state_dict())
    assert insert_temporal_operators(network, 4, "none", ("0",)) == 0
    assert list(network.state_dict()) == names
