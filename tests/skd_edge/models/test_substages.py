"""The common output of networks, and the form in which they are exported."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skd_edge.models.substages import LogitsOnly, SubstageOutput, pool_frames


class Network(nn.Module):
    def __init__(self, has_head: bool) -> None:
        super().__init__()
        self.has_head = has_head

    def forward(self, clip):
        features = clip.mean((3, 4)).transpose(1, 2)
        return SubstageOutput([features], features.mean(1) if self.has_head else None)


def test_logits_only_returns_the_logits_of_its_network():
    clip = torch.rand(2, 3, 4, 8, 8)
    assert torch.allclose(LogitsOnly(Network(has_head=True))(clip), clip.mean((2, 3, 4)), atol=1e-6)


def test_logits_only_refuses_an_output_without_logits():
    with pytest.raises(AssertionError):
        LogitsOnly(Network(has_head=False))(torch.rand(2, 3, 4, 8, 8))


def test_the_network_keeps_its_name_in_the_state_dict():
    assert list(LogitsOnly(nn.Linear(2, 2)).state_dict()) == ["network.weight", "network.bias"]


def test_an_output_has_no_feature_map_by_default():
    assert SubstageOutput([], None).last_feature_map is None


def test_frames_are_pooled_and_the_gradient_is_channels_last():
    x = torch.rand(6, 5, 4, 3, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    gradients, leaf = [], x.requires_grad_()
    activation = leaf * 1
    activation.register_hook(gradients.append)
    pooled = pool_frames(activation, 3)
    assert pooled.shape == (2, 3, 5)
    assert torch.allclose(pooled[1, 2], x[5].mean((1, 2)))
    (pooled * torch.arange(30.0).view(2, 3, 5)).sum().backward()
    assert torch.allclose(gradients[0][5, 4], torch.full((4, 3), 29 / 12))
    assert gradients[0].is_contiguous(memory_format=torch.channels_last)
