"""The temporal operators against their definitions, and frame by frame against the whole clip."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skd_edge.models.temporal import TemporalConv, TemporalShift

FRAMES = 5


def operator(kind, causal, channels=16):
    if kind == "shift":
        return TemporalShift(channels, FRAMES, causal)
    torch.manual_seed(0)
    made = TemporalConv(channels, FRAMES, depthwise=kind == "depthwise", activation=nn.ReLU6(), causal=causal).eval()
    nn.init.normal_(made.norm.running_mean, std=0.3)
    return made


def maps(clips=2, channels=16, size=3):
    x = torch.randn(clips * FRAMES, channels, size, size, generator=torch.Generator().manual_seed(0))
    return x.to(memory_format=torch.channels_last)


def test_a_shift_takes_an_eighth_of_the_channels_from_each_neighbour():
    x = maps()
    out = TemporalShift(16, FRAMES)(x).unflatten(0, (2, FRAMES))
    clip = x.unflatten(0, (2, FRAMES))
    for t in range(FRAMES):
        assert torch.equal(out[:, t, :2], clip[:, min(t + 1, FRAMES - 1), :2])
        assert torch.equal(out[:, t, 2:4], clip[:, max(t - 1, 0), 2:4])
        assert torch.equal(out[:, t, 4:], clip[:, t, 4:])


def test_a_causal_shift_takes_an_eighth_from_the_previous_frame_and_zeros_before_the_first():
    x = maps()
    out, clip = TemporalShift(16, FRAMES, causal=True)(x).unflatten(0, (2, FRAMES)), x.unflatten(0, (2, FRAMES))
    assert not out[:, 0, :2].any()
    assert torch.equal(out[:, 1:, :2], clip[:, :-1, :2])
    assert torch.equal(out[:, :, 2:], clip[:, :, 2:])


def test_few_channels_still_shift_one():
    assert TemporalShift(4, FRAMES).fold == 1


@pytest.mark.parametrize("kind", ["dense", "depthwise"])
@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_a_temporal_convolution_equals_a_3d_convolution(kind, causal):
    layer, x = operator(kind, causal), maps()
    clip = x.unflatten(0, (2, FRAMES)).transpose(1, 2)  # B C T H W
    padded = nn.functional.pad(clip, (0, 0, 0, 0, 2, 0) if causal else (0, 0, 0, 0, 1, 1))
    weight = layer.conv.weight.unsqueeze(-1)  # (C, C', 3, 1) to (C, C', 3, 1, 1)
    convolved = nn.functional.conv3d(padded, weight, groups=layer.conv.groups).transpose(1, 2).flatten(0, 1)
    expected = layer.activation(layer.norm(convolved))
    assert torch.allclose(layer(x), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["shift", "dense", "depthwise"])
@torch.no_grad()
def test_steps_with_a_zero_state_equal_the_causal_operator_on_the_clip(kind):
    layer, x = operator(kind, causal=True), maps()
    expected, frames = layer(x).unflatten(0, (2, FRAMES)), x.unflatten(0, (2, FRAMES))
    state = torch.zeros(2, *layer.state_shape(frames[:, 0]))
    for t in range(FRAMES):
        out, state = layer.step(frames[:, t], state)
        assert torch.allclose(out, expected[:, t], atol=1e-6)
        assert state.shape == (2, *layer.state_shape(frames[:, 0]))
