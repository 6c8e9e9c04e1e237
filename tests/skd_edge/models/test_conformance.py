"""Properties of every staged network: the built-in families with each temporal operator, and adapters."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from skd_edge.models.builder import build_network
from skd_edge.models.external.factory import allow_factory_code
from skd_edge.models.substages import LogitsOnly
from skd_edge.recipe.schema import NetworkSpec, Teacher
from skd_edge.recipe.sections import ClipSettings
from skd_export.exporter import make_artefacts

HERE, CLASSES, CLIP = Path(__file__).parent / "external", 5, ClipSettings(frames=4, size=16)
BUILT_IN = {
    f"{family} {temporal}": NetworkSpec(name="n", family=family, temporal=temporal, width=4, depths=(1, 1))
    for family in ("resnet", "mobile")
    for temporal in ("none", "shift", "conv")
}
MOBILE = {
    f"{family} {temporal}": NetworkSpec(name="n", family=family, temporal=temporal, width=4)
    for family, temporal in (
        ("mobilenetv2", "conv"),
        ("mobilenetv3-small", "none"),
        ("mobilenetv3-small", "shift"),
        ("mobilenetv3-small", "conv"),
        ("x3d-xs", "shift"),
    )
}
EXTERNAL = {
    "per frame": {"factory": "foreign_networks:per_frame", "substages": ("layer1", "layer2"), "input": "frames"},
    "cubes": {"factory": "foreign_networks:cubes", "substages": ("layers.0", "layers.1")},
    "tokens": {
        "factory": "foreign_networks:tokens",
        "substages": ("blocks.0", "blocks.1"),
        "input": "frames-first",
    },
    "tokens, another clip": {
        "factory": "foreign_networks:tokens",
        "arguments": {"frames": 8, "size": 24},
        "substages": ("blocks.0", "blocks.1"),
        "input": "frames-first",
        "clip": {"frames": 8, "size": 24, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    },
}
SPECS = BUILT_IN | MOBILE | {name: Teacher(code=HERE, **kw) for name, kw in EXTERNAL.items()}
# Width and time steps of each substage's features.
SHAPES = {name: ((4, 4), (8, 4)) for name in BUILT_IN} | {
    "mobilenetv2 conv": ((8, 4), (8, 4), (24, 4), (80, 4)),
    **{f"mobilenetv3-small {way}": ((8, 4), (8, 4), (16, 4), (24, 4)) for way in ("none", "shift", "conv")},
    "x3d-xs shift": ((8, 4), (16, 4), (24, 4), (48, 4)),
    "per frame": ((7, 4), (12, 4)),
    "cubes": ((8, 4), (12, 2)),
    "tokens": ((10, 2), (10, 2)),
    "tokens, another clip": ((10, 4), (10, 4)),
}
each = pytest.mark.parametrize("name", SPECS)


def network(name, seed=0):
    spec = SPECS[name]
    if isinstance(spec, Teacher):
        allow_factory_code(spec, allow_code=True)
    return build_network(spec, classes=CLASSES, clip=CLIP, seed=seed)


def settled(name, seed=0):
    """A network in evaluation mode whose batch norms have the statistics of some clips."""
    net = network(name, seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.momentum = None
    with torch.no_grad():
        net.train()(clips(8))
    return net.eval()


def clips(count=3, seed=0):
    return torch.randn(count, 3, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


@each
@pytest.mark.parametrize("count", [1, 3])
def test_shapes(name, count):
    net = settled(name)
    with torch.no_grad():
        output = net(clips(count))
    assert net.widths == tuple(width for width, _ in SHAPES[name])
    assert [tuple(f.shape) for f in output.features] == [(count, steps, width) for width, steps in SHAPES[name]]
    assert output.logits.shape == (count, CLASSES)
    assert all(torch.isfinite(x).all() for x in (*output.features, output.logits))


@each
def test_a_prefix_gives_the_same_features_and_no_logits(name):
    net, x = settled(name), clips()
    with torch.no_grad():
        whole, first = net(x), net(x, 1)
    assert first.logits is None
    assert len(first.features) == 1
    assert torch.equal(first.features[0], whole.features[0])


@each
def test_clips_of_a_batch_do_not_influence_each_other(name):
    """Also for a batch that an adapter divides into several passes."""
    net, x = settled(name), clips(18)
    with torch.no_grad():
        together, alone = net(x), [net(x[i : i + 1]) for i in range(18)]
    assert torch.allclose(together.logits, torch.cat([a.logits for a in alone]), atol=1e-5)
    for k, features in enumerate(together.features):
        rounding = 2e-5 * max(1.0, float(features.abs().max()))  # features of a deep network may be in the hundreds
        assert torch.allclose(features, torch.cat([a.features[k] for a in alone]), rtol=0, atol=rounding)


@each
def test_every_weight_gets_a_gradient_and_a_prefix_only_its_own(name):
    net = network(name).train()
    net(clips()).logits.square().sum().backward()
    # Biases before a batch norm and biases of attention keys have no gradient, so only weights are checked.
    assert [n for n, p in net.named_parameters() if p.grad is None or (p.ndim > 1 and not p.grad.any())] == []
    net.zero_grad(set_to_none=True)
    net(clips(), 1).features[0].square().sum().backward()
    trained = [n for n, p in net.named_parameters() if p.grad is not None]
    assert trained
    assert len(trained) < len(list(net.parameters()))


@each
def test_the_seed_alone_decides_the_weights(name):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    one = network(name, seed=1).state_dict()
    assert torch.equal(torch.rand(3), expected)  # the caller's random state is not changed
    two, other = network(name, seed=1).state_dict(), network(name, seed=2).state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(a, b) for a, b in zip(one.values(), two.values(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


@each
def test_loaded_weights_and_copies_give_the_same_output(name):
    net, twin, x = settled(name, 1), settled(name, 2), clips()
    twin.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(twin(x).logits, net(x).logits)
        assert torch.equal(copy.deepcopy(net)(x).logits, net(x).logits)


@pytest.mark.parametrize(
    "name", ["per frame", "tokens, another clip", *MOBILE]
)  # test_tsm.py tests the built-in families
def test_the_exported_file_gives_the_same_logits(name, tmp_path):
    net, classes = settled(name), [f"c{i}" for i in range(CLASSES)]
    made = make_artefacts(LogitsOnly(net).eval(), ("fp32",), tmp_path, clip_shape=(4, 16, 16), classes=classes)
    session = onnxruntime.InferenceSession(made["fp32"], providers=["CPUExecutionProvider"])
    for count in (1, 3):
        x = clips(count, seed=count)
        (logits,) = session.run(["logits"], {"clip": x.numpy()})
        with torch.no_grad():
            assert np.abs(logits - net(x).logits.numpy()).max() <= 1e-4
