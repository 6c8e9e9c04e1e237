"""Video models of torchvision and backbones of timm, built with the real libraries."""

from __future__ import annotations

import pytest
import torch

from skd_bench.errors import UserError
from skd_edge.models.external.loader import adapt_external, weights_fingerprint
from skd_edge.models.external.torchvision_timm import import_torchvision
from skd_edge.models.temporal import TemporalShift, TimeResidual
from skd_edge.recipe.schema import NetworkSpec, Teacher
from skd_edge.recipe.sections import ClipSettings

CLIP = ClipSettings(frames=4, size=32)


def clips(count=3, clip=CLIP):
    return torch.randn(count, 3, clip.frames, clip.size, clip.size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def torchvision():
    try:
        return import_torchvision("torchvision")
    except ImportError:
        pytest.skip("could not import 'torchvision'")


@pytest.fixture(scope="module")
def timm(torchvision):
    try:
        return import_torchvision("timm")
    except ImportError:
        pytest.skip("could not import 'timm'")


@pytest.mark.parametrize(
    ("name", "widths", "steps"),
    [
        ("r3d_18", (64, 128, 256, 512), (4, 2, 1, 1)),
        ("s3d", (192, 480, 832, 1024), (8, 8, 4, 2)),
        ("swin3d_t", (96, 192, 384, 768), (2, 2, 2, 2)),
        ("mvit_v2_s", (96, 192, 384, 768), (8, 8, 8, 8)),
    ],
)
def test_a_video_model_of_torchvision(name, widths, steps, torchvision):
    clip = ClipSettings(frames=4, size=32)
    with torch.device("meta"):
        net = adapt_external(Teacher(torchvision=name), classes=4, clip=clip, seed=0).eval()
        output = net(torch.zeros(2, 3, clip.frames, clip.size, clip.size))
    assert net.widths == widths
    assert [tuple(f.shape) for f in output.features] == [(2, t, w) for t, w in zip(steps, widths, strict=True)]
    assert output.logits.shape == (2, 4)


def test_torchvision_weights_for_other_classes_are_loaded_except_the_head(torchvision, tmp_path):
    kinetics = adapt_external(Teacher(torchvision="r3d_18"), classes=7, clip=CLIP, seed=1).network.state_dict()
    torch.save(kinetics, tmp_path / "w.pth")
    net = adapt_external(Teacher(torchvision="r3d_18", pretrained=tmp_path / "w.pth"), classes=4, clip=CLIP, seed=2)
    state = net.network.state_dict()
    assert [n for n in state if n not in kinetics or not torch.equal(state[n], kinetics[n])] == ["fc.weight", "fc.bias"]
    with pytest.raises(UserError, match=r"does not fit torchvision's mc3_18: \d+ of its \d+ tensors"):
        adapt_external(Teacher(torchvision="mc3_18", pretrained=tmp_path / "w.pth"), classes=4, clip=CLIP, seed=2)
    assert weights_fingerprint(Teacher(torchvision="r3d_18", pretrained=tmp_path / "w.pth")) is not None


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "convnext_atto"])
@torch.no_grad()
def test_a_timm_backbone_uses_neighbouring_frames(name, timm):
    net, x = adapt_external(Teacher(timm=name), classes=4, clip=CLIP, seed=0).eval(), clips()
    assert len(net.widths) == 4
    assert [f.shape[:2] for f in net(x).features] == [(3, 4)] * 4
    torch.manual_seed(0)
    for parameter in net.parameters():  # some branches have zero weights at the start
        torch.nn.init.normal_(parameter, std=0.2)
    other = x.clone()
    other[:, :, 1] = 0.0
    pairs = zip(net(x).features, net(other).features, strict=True)
    # Without the temporal shift, frame 1 could not influence the features of frame 0.
    assert any(not torch.equal(one[:, 0], two[:, 0]) for one, two in pairs)


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("mobilenet_v2", (24, 32, 96, 1280)),
        ("mobilenet_v3_small", (16, 24, 48, 576)),
        ("regnet_y_400mf", (48, 104, 208, 440)),
        ("shufflenet_v2_x0_5", (24, 48, 96, 1024)),
        ("resnet18", (64, 128, 256, 512)),
        ("efficientnet_b0", (24, 40, 112, 1280)),
        ("convnext_tiny", (96, 192, 384, 768)),
    ],
)
@pytest.mark.parametrize(("temporal", "operator"), [("shift", TemporalShift), ("conv", TimeResidual)])
def test_a_2d_network_of_torchvision_gets_a_temporal_operator_and_four_substages(
    name, widths, temporal, operator, torchvision
):
    net = adapt_external(
        NetworkSpec(name="n", torchvision=name, temporal=temporal), classes=4, clip=CLIP, seed=0
    ).eval()
    with torch.no_grad():
        output = net(clips(2))
    assert net.widths == widths
    assert output.logits.shape == (2, 4)
    assert sum(isinstance(module, operator) for module in net.modules()) >= 4


def test_a_video_model_gets_no_temporal_convolution(torchvision):
    with pytest.raises(UserError, match=r"n.temporal conv is for 2-D networks, but torchvision's r3d_18 is a video"):
        adapt_external(NetworkSpec(name="n", torchvision="r3d_18", temporal="conv"), classes=4, clip=CLIP, seed=0)


def test_unknown_networks_of_a_library_are_refused(timm):
    with pytest.raises(UserError, match=r"'r3d_19' is not a known network of torchvision; choose from: r3d_18"):
        adapt_external(Teacher(torchvision="r3d_19"), classes=4, clip=CLIP, seed=0)
    with pytest.raises(UserError, match="'resnet19' is not a known network of timm"):
        adapt_external(Teacher(timm="resnet19"), classes=4, clip=CLIP, seed=0)
    with pytest.raises(UserError, match=r"small.timm vit_tiny_patch16_224 has no conv.*set small.temporal to none"):
        adapt_external(
            NetworkSpec(name="small", timm="vit_tiny_patch16_224", clip={"size": 224}), classes=4, clip=CLIP, seed=0
        )


def test_a_package_that_is_not_installed_is_an_import_error():
    with pytest.raises(ImportError, match="not_a_package"):
        import_torchvision("not_a_package")
