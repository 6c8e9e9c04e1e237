"""Adapters: pooled features, conversion of clips, and names, inputs and outputs that are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skd_bench.errors import UserError
from skd_edge.models.external.adapter import Adapter, ClipConverter
from skd_edge.recipe.sections import ClipSettings

CLIP = ClipSettings(frames=4, size=16)


def clips(count=3, frames=4, size=16):
    return torch.randn(count, 3, frames, size, size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_features_are_module_outputs_even_if_the_next_module_works_in_place(make_adapter):
    net, x = make_adapter("per_frame", ("layer1", "layer2"), input="frames"), clips()
    inner, folded = net.network, x.transpose(1, 2).flatten(0, 1)
    expected = inner.layer1(inner.stem(folded)).mean((2, 3)).unflatten(0, (3, 4))
    assert (expected < 0).any()  # before the ReLU
    output = net(x)
    assert torch.allclose(output.features[0], expected, atol=1e-6)
    assert torch.allclose(output.logits, inner(folded).unflatten(0, (3, 4)).mean(1), atol=1e-6)


@torch.no_grad()
def test_tokens_are_averaged_tubelet_by_tubelet_without_the_class_token(make_adapter):
    net, x = make_adapter("tokens", ("blocks.0", "blocks.1"), input="frames-first"), clips()
    output, hidden = net(x), net.network(x.transpose(1, 2)).hidden
    assert torch.allclose(output.features[1], hidden[:, 1:].unflatten(1, (2, 4)).mean(2), atol=1e-6)
    assert net.layouts == ("BNC", "BNC")


def test_no_hook_is_left_behind(make_adapter):
    net = make_adapter()
    net(clips())
    assert not any(module._forward_hooks for module in net.modules())


@torch.no_grad()
def test_clips_are_converted_to_the_expected_clip():
    wanted = ClipSettings(frames=8, size=32, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
    pixels = torch.rand(2, 3, 4, 16, 16)

    def normalised(clip):
        return (pixels - torch.tensor(clip.mean).view(3, 1, 1, 1)) / torch.tensor(clip.std).view(3, 1, 1, 1)

    seen = ClipConverter(CLIP, wanted.model_copy(update={"size": 16}))(normalised(CLIP))
    assert torch.allclose(seen, normalised(wanted)[:, :, [0, 0, 1, 1, 2, 2, 3, 3]], atol=1e-5)
    assert ClipConverter(CLIP, wanted)(normalised(CLIP)).shape == (2, 3, 8, 32, 32)
    same = normalised(CLIP)
    assert ClipConverter(CLIP, CLIP)(same) is same


# ------------------------------------------------------------------------------------------ errors
def test_an_unknown_module_name_lists_the_closest_names_first(make_adapter):
    with pytest.raises(UserError, match=r"names 'layer.1', .* choose from: layers.1, "):
        make_adapter(substages=("layers.0", "layer.1"))


@pytest.mark.parametrize(("part", "times"), [("twice", 2), ("never", 0)])
def test_a_module_that_does_not_run_exactly_once_is_refused(part, times, make_adapter):
    with pytest.raises(UserError, match=f"substage {part} ran {times} times"):
        make_adapter("tied", (part,))


def test_an_ambiguous_output_needs_a_layout():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.Conv2d(3, 16, 3, 1, 1)

        def forward(self, x):
            return self.part(x).mean((2, 3))

    with pytest.raises(UserError, match=r"substage part gives \(12, 16, 16, 16\) .* could be FCHW or FHWC; .*layout"):
        Adapter(Net(), ("part",), clip=CLIP, input_layout="frames")
    net = Adapter(Net(), ("part",), clip=CLIP, input_layout="frames", layout="FCHW")
    assert torch.allclose(net(clips()).features[0].mean(1), net(clips()).logits, atol=1e-5)


def test_an_output_without_a_known_layout_is_refused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.Flatten(0)

        def forward(self, x):
            return self.part(x).unflatten(0, (len(x), -1))[:, :5]

    with pytest.raises(UserError, match=r"substage part gives \(9216,\) .* fits no known layout"):
        Adapter(Net(), ("part",), clip=CLIP)


def test_an_input_that_the_network_does_not_accept_is_refused(make_adapter):
    with pytest.raises(
        UserError, match=r"does not accept clips \(12, 3, 16, 16\), .* teacher.input 'frames' gives: .*input"
    ):
        make_adapter(input="frames")
    with pytest.raises(UserError, match=r"\(12, 5\); it must be logits .*'teacher.input: frames'"):
        Adapter(nn.Sequential(Folding(), make_adapter("per_frame", ("fc",), input="frames").network), ("0",), clip=CLIP)


class Folding(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2).flatten(0, 1)
