"""Properties of the families resnet and mobile, for each temporal operator and several sizes."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from skd_edge.models.substages import LogitsOnly
from skd_edge.models.tsm import build_tsm, count_parameters
from skd_edge.recipe.schema import NetworkSpec
from skd_export.exporter import make_artefacts

FRAMES, CLASSES = 4, 5
kinds = pytest.mark.parametrize(
    ("family", "temporal"), [(f, t) for f in ("resnet", "mobile") for t in ("none", "shift", "conv")]
)


def network(family="mobile", temporal="conv", *, size=16, seed=0, frames=FRAMES, **kw):
    spec = NetworkSpec(**{"name": "n", "family": family, "temporal": temporal, "width": 4} | kw)
    return settled(
        build_tsm(spec, classes=CLASSES, frames=frames, size=size, seed=seed), clip(8, size=size, frames=frames)
    )


def settled(net, x):
    """Give the batch norms statistics of some clips; without them, a deep network has the same output for all clips."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        net.train()(x)
    return net.eval()


def clip(batch=3, *, size=16, seed=0, frames=FRAMES):
    return torch.randn(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(seed))


@kinds
@pytest.mark.parametrize("size", [16, 30, 96])
@pytest.mark.parametrize("depths", [(1, 1, 1, 1), (2, 1)], ids=str)
def test_shapes(family, temporal, size, depths):
    net, x = network(family, temporal, size=size, depths=depths), clip(size=size)
    assert net.widths == tuple(4 * 2**k for k in range(len(depths)))
    with torch.no_grad():
        output = net(x)
        assert output.logits.shape == (3, CLASSES)
        assert [f.shape for f in output.features] == [(3, FRAMES, w) for w in net.widths]
        assert all(torch.isfinite(f).all() for f in (*output.features, output.logits))
        for upto in range(1, len(depths) + 1):
            part = net(x, upto)
            assert part.logits is None
            assert len(part.features) == upto
            assert all(torch.equal(a, b) for a, b in zip(part.features, output.features, strict=False))


@kinds
def test_pooled_features_are_means_of_the_maps(family, temporal):
    net, x, maps = network(family, temporal), clip(), []
    net.substages[1].register_forward_hook(lambda module, given, out: maps.append(out))
    with torch.no_grad():
        output = net(x)
    pooled = maps[0].reshape(3, FRAMES, *maps[0].shape[1:]).mean((3, 4))
    assert torch.allclose(output.features[1], pooled, atol=1e-6)


@kinds
def test_clips_of_a_batch_do_not_influence_each_other(family, temporal):
    net, x = network(family, temporal), clip()
    with torch.no_grad():
        together = net(x).logits
        alone = torch.cat([net(x[i : i + 1]).logits for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)


@kinds
def test_the_same_seed_gives_the_same_weights(family, temporal):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    one = network(family, temporal, seed=1)
    assert torch.equal(torch.rand(3), expected)  # the caller's random state is not changed
    two, other = network(family, temporal, seed=1), network(family, temporal, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert not torch.equal(one.head.weight, other.head.weight)


@kinds
def test_the_order_of_frames(family, temporal):
    """The order of frames changes the output with a temporal operator, and does not without one."""
    net, x = network(family, temporal), clip()
    with torch.no_grad():
        plain, mixed = net(x).logits, net(x[:, :, [2, 0, 3, 1]]).logits
    if temporal == "none":
        assert torch.allclose(plain, mixed, atol=1e-5)
    else:
        assert (plain - mixed).abs().max() > 1e-3


@kinds
def test_every_weight_gets_a_gradient(family, temporal):
    net = network(family, temporal).train()
    net(clip()).logits.square().sum().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("temporal", ["none", "shift", "conv"])
def test_one_frame(temporal):
    with torch.no_grad():
        assert network(temporal=temporal, frames=1)(clip(frames=1)).logits.shape == (3, CLASSES)


def test_width_and_depth_add_parameters():
    assert count_parameters(network(width=8)) > count_parameters(network(width=4))
    assert count_parameters(network(depths=(2, 1, 1, 1))) > count_parameters(network())
    assert count_parameters(network()) == sum(p.numel() for p in network().parameters())


@kinds
def test_the_exported_file_gives_the_same_logits(family, temporal, tmp_path):
    net = network(family, temporal)
    classes = [f"c{i}" for i in range(CLASSES)]
    path = make_artefacts(LogitsOnly(net).eval(), ("fp32",), tmp_path, clip_shape=(FRAMES, 16, 16), classes=classes)[
        "fp32"
    ]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        x = clip(batch, seed=batch)
        (logits,) = session.run(["logits"], {"clip": x.numpy()})
        with torch.no_grad():
            expected = net(x).logits.numpy()
        assert np.abs(logits - expected).max() <= 1e-4
