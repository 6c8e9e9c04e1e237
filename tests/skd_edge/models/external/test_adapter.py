"""Adapters: what hooks see, names, inputs; factories that may not run, cannot run, or give something else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from skd_bench.errors import UsageError, UserError
from skd_edge.models.external import factory
from skd_edge.models.external.adapter import Adapter, ClipConverter
from skd_edge.models.external.factory import allow_factory_code, build_from_factory, find_factory_file
from skd_edge.models.external.loader import adapt_external
from skd_edge.models.weights import load_weights
from skd_edge.recipe.schema import Teacher
from skd_edge.recipe.sections import ClipSettings

HERE, CLIP = Path(__file__).parent, ClipSettings(frames=4, size=16)


def teacher(name="cubes", substages=("layers.0", "layers.1"), allow=True, **kw):
    made = Teacher(factory=f"foreign_networks:{name}", code=HERE, substages=substages, **kw)
    if allow:
        allow_factory_code(made, allow_code=True)
    return made


def adapter(name="cubes", substages=("layers.0", "layers.1"), classes=5, **kw):
    return adapt_external(teacher(name, substages, **kw), classes=classes, clip=CLIP, seed=0).eval()


def clips(count=3, frames=4, size=16):
    return torch.randn(count, 3, frames, size, size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_hooks_see_the_modules_outputs_even_where_the_next_part_works_in_place():
    net, x = adapter("per_frame", ("layer1", "layer2"), input="frames"), clips()
    inner, folded = net.network, x.transpose(1, 2).flatten(0, 1)
    expected = inner.layer1(inner.stem(folded)).mean((2, 3)).unflatten(0, (3, 4))
    assert (expected < 0).any()  # before the ReLU
    said = net(x)
    assert torch.allclose(said.features[0], expected, atol=1e-6)
    assert torch.allclose(said.logits, inner(folded).unflatten(0, (3, 4)).mean(1), atol=1e-6)


@torch.no_grad()
def test_tokens_are_averaged_tubelet_by_tubelet_without_the_class_token():
    net, x = adapter("tokens", ("blocks.0", "blocks.1"), input="frames-first"), clips()
    said, hidden = net(x), net.network(x.transpose(1, 2)).hidden
    assert torch.allclose(said.features[1], hidden[:, 1:].unflatten(1, (2, 4)).mean(2), atol=1e-6)
    assert net.layouts == ("BNC", "BNC")


def test_no_hook_is_left_behind():
    net = adapter()
    net(clips())
    assert not any(module._forward_hooks for module in net.modules())


@torch.no_grad()
def test_a_view_of_another_clip():
    wanted = ClipSettings(frames=8, size=32, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
    pixels = torch.rand(2, 3, 4, 16, 16)

    def normalised(clip):
        return (pixels - torch.tensor(clip.mean).view(3, 1, 1, 1)) / torch.tensor(clip.std).view(3, 1, 1, 1)

    seen = ClipConverter(CLIP, wanted.model_copy(update={"size": 16}))(normalised(CLIP))
    assert torch.allclose(seen, normalised(wanted)[:, :, [0, 0, 1, 1, 2, 2, 3, 3]], atol=1e-5)
    assert ClipConverter(CLIP, wanted)(normalised(CLIP)).shape == (2, 3, 8, 32, 32)
    same = normalised(CLIP)
    assert ClipConverter(CLIP, CLIP)(same) is same


# ------------------------------------------------------------------------------------------ what cannot be
def test_a_name_that_is_not_there_lists_those_that_are_closest_first():
    with pytest.raises(UserError, match=r"names 'layer.1', .* there are: layers.1, "):
        adapter(substages=("layers.0", "layer.1"))


@pytest.mark.parametrize(("part", "times"), [("twice", 2), ("never", 0)])
def test_a_part_that_does_not_run_exactly_once(part, times):
    with pytest.raises(UserError, match=f"substage {part} ran {times} times"):
        adapter("tied", (part,))


def test_an_output_that_cannot_be_told_needs_a_layout():
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


def test_an_output_of_no_known_layout():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.Flatten(0)

        def forward(self, x):
            return self.part(x).unflatten(0, (len(x), -1))[:, :5]

    with pytest.raises(UserError, match=r"substage part gives \(9216,\) .* is of no layout that is known"):
        Adapter(Net(), ("part",), clip=CLIP)


def test_an_input_that_the_network_does_not_take():
    with pytest.raises(UserError, match=r"does not take clips \(12, 3, 16, 16\), as teacher.input 'frames'.*input"):
        adapter(input="frames")
    with pytest.raises(UserError, match=r"\(12, 5\); it must be logits .*'teacher.input: frames'"):
        Adapter(nn.Sequential(Folding(), adapter("per_frame", ("fc",), input="frames").network), ("0",), clip=CLIP)


class Folding(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2).flatten(0, 1)


def test_another_number_of_classes():
    with pytest.raises(UserError, match=r"tells 5 classes apart and the data has 10; .*teacher.arguments"):
        adapter(classes=10)
    assert adapter(classes=10, arguments={"classes": 10}).classes == 10


def test_nothing_is_imported_without_leave(tmp_path, monkeypatch):
    monkeypatch.setattr(factory, "_allowed_factories", set())
    (tmp_path / "would_run.py").write_text("raise SystemExit('it ran')")
    spec = Teacher(factory="would_run:net", code=tmp_path, substages=("a",))
    for refused in (lambda: allow_factory_code(spec, allow_code=False), lambda: build_from_factory(spec, 0)):
        with pytest.raises(UsageError, match=r"'would_run:net' runs somebody's code .*--allow-code"):
            refused()
    allow_factory_code(Teacher(), allow_code=False)  # the own family needs no leave
    assert find_factory_file(spec) == tmp_path / "would_run.py"
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        (None, {}, r"cannot import {m}: ModuleNotFoundError.*it is searched on Python's path and in "),
        ("import nothing_like_this", {}, r"cannot import {m}: ModuleNotFoundError: .*\({m}.py, line 1\)"),
        ("def net(:", {}, r"cannot import {m}: SyntaxError"),
        ("def nets(): pass", {}, r"{m} has no callable 'net'; it has nets"),
        ("net = 3", {}, r"{m} has no callable 'net'"),
        ("def net(): pass", {"depth": 3}, r"failed with these teacher.arguments \(depth=3\): TypeError"),
        ("def net():\n    1 / 0", {}, r"teacher.arguments \(none\): ZeroDivisionError.*\({m}.py, line 2\)"),
        ("def net(): return 'text'", {}, r"gives a str; it must return a torch.nn.Module"),
    ],
)
def test_a_factory_that_gives_no_network(source, arguments, message, tmp_path, request):
    module = f"factory_{abs(hash(request.node.name))}"
    if source is not None:
        (tmp_path / f"{module}.py").write_text(source)
    spec = Teacher(factory=f"{module}:net", code=tmp_path, substages=("a",), arguments=arguments)
    allow_factory_code(spec, allow_code=True)
    with pytest.raises(UserError, match=message.replace("{m}", module)):
        build_from_factory(spec, 0)


# ------------------------------------------------------------------------------------------ weights
@pytest.mark.parametrize("wrapped", ["bare", "module.", "inside a checkpoint"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_of_others(wrapped, suffix, tmp_path):
    one, two, path = adapter().network, adapter().network, tmp_path / f"w{suffix}"
    nn.init.normal_(one.fc.weight)
    state = {("module." if wrapped == "module." else "") + k: v for k, v in one.state_dict().items()}
    if suffix == ".pt":
        torch.save({"epoch": 3, "state_dict": state} if wrapped == "inside a checkpoint" else state, path)
    else:
        save_file(state, path)
    load_weights(two, path)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_weights_that_cannot_be(tmp_path):
    network = adapter().network
    torch.save({"w": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save(network, tmp_path / "whole.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "broken.pt").write_bytes(b"no weights at all")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights at all")
    for name, message in {
        "other.pt": "does not fit the network: Missing key",
        "whole.pt": "could run code",
        "list.pt": "no state_dict",
        "broken.pt": "could run code|cannot be read",
        "broken.safetensors": "cannot be read",
        "gone.pt": "cannot be read",
    }.items():
        with pytest.raises(UserError, match=message):
            load_weights(network, tmp_path / name)
