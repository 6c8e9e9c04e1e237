"""MobileNetV2, MobileNetV3 and the X3D-XS-like network: sizes, strides and what their operators do."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from skd_edge.models.catalogue import describe_network
from skd_edge.models.mobilenet import MobileBlock, SqueezeExcite, build_mobilenet
from skd_edge.models.temporal import TemporalShift, TimeResidual
from skd_edge.recipe.schema import NetworkSpec
from skd_edge.recipe.sections import ClipSettings

IMAGE, CLIP = ClipSettings(frames=1, size=224), ClipSettings(frames=4, size=32)


def spec(family, **keys):
    return NetworkSpec(name="n", family=family, **keys)


def build(family, clip=CLIP, **keys):
    return build_mobilenet(spec(family, **keys), classes=5, clip=clip, seed=0).eval()


# Millions of parameters and MACs of torchvision's networks, with 1,000 classes and an image of 224 pixels.
@pytest.mark.parametrize(
    ("family", "parameters", "macs", "hidden"),
    [
        ("mobilenetv2", 3_504_872, 300.8e6, 1280),
        ("mobilenetv3-small", 2_542_856, 56.5e6, 1024),
        ("mobilenetv3-large", 5_483_032, 216.6e6, 1280),
    ],
)
def test_the_published_width_has_the_published_parameters_and_macs(family, parameters, macs, hidden):
    entry = describe_network("n", spec(family, temporal="none"), IMAGE)
    assert entry.parameters == parameters - (hidden + 1) * (1000 - 10)  # here the head has 10 classes
    assert entry.macs == pytest.approx(macs - hidden * (1000 - 10), rel=0.005)


@pytest.mark.parametrize("family", ["mobilenetv2", "mobilenetv3-small", "mobilenetv3-large", "x3d-xs"])
@pytest.mark.parametrize(("size", "last"), [(112, 4), (64, 4), (32, 2)])
def test_the_last_substage_ends_at_stride_32_or_16_for_small_clips(family, size, last):
    with torch.device("meta"):
        net = build(family, ClipSettings(frames=1, size=size), width=4)
        output = net(torch.zeros(1, 3, 1, size, size), 4)
    assert len(output.features) == 4
    assert output.last_feature_map.shape[2:] == (last, last)


@pytest.mark.parametrize("temporal", ["shift", "conv"])
def test_a_temporal_operator_is_in_every_block_that_can_have_one(temporal):
    net = build("mobilenetv3-small", temporal=temporal, width=8)
    blocks = [module for module in net.modules() if isinstance(module, MobileBlock)]
    assert len(blocks) == 11
    if temporal == "conv":
        assert all(isinstance(block.time, TimeResidual) for block in blocks)
    else:
        assert [isinstance(block.before, TemporalShift) for block in blocks] == [block.has_skip for block in blocks]


@torch.no_grad()
def test_fewer_frames_and_a_smaller_image_are_taken_from_the_clip():
    clip = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    small = build("mobilenetv3-small", frames=2, size=16, width=4, temporal="shift")
    same = build("mobilenetv3-small", ClipSettings(frames=2, size=16), width=4, temporal="shift")
    shrunk = torch.nn.functional.avg_pool3d(clip[:, :, 1::2], (1, 2, 2))
    assert torch.allclose(small(clip).logits, same(shrunk).logits, atol=1e-6)


@torch.no_grad()
def test_squeeze_excite_scales_the_channels_of_each_frame_alone():
    layer, x = SqueezeExcite(8).eval(), torch.rand(3, 8, 4, 4)
    ratio = layer(x) / x
    assert torch.allclose(ratio, ratio.mean((2, 3), keepdim=True).expand_as(ratio), atol=1e-5)
    assert torch.allclose(layer(x[1:2]), layer(x)[1:2], atol=1e-6)
    layer.widen.weight.zero_()
    layer.widen.bias.fill_(3.0)  # the hard sigmoid is 1 from 3 on
    assert torch.equal(layer(x), x)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"depths": (1, 1)}, "depths is fixed in mobilenetv3-small; remove it"),
        ({"expand": 4}, "expand is fixed in mobilenetv3-small; remove it"),
        ({"causal": True}, "causal is fixed in mobilenetv3-small; remove it"),
        ({"start": "imagenet"}, "for ImageNet weights of mobilenetv3-small, use a network of timm or torchvision"),
    ],
)
def test_settings_that_it_does_not_have_are_refused(keys, message):
    with pytest.raises(ValidationError, match=message):
        spec("mobilenetv3-small", **keys)
