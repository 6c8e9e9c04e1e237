"""Weights from files of unknown origin."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from skd_bench.errors import UserError
from skd_edge.models.external.factory import allow_factory_code
from skd_edge.models.external.loader import adapt_external
from skd_edge.models.weights import load_matching_weights, load_weights
from skd_edge.recipe.schema import Teacher
from skd_edge.recipe.sections import ClipSettings

HERE, CLIP = Path(__file__).parent / "external", ClipSettings(frames=4, size=16)


def adapter():
    spec = Teacher(factory="foreign_networks:cubes", code=HERE, substages=("layers.0", "layers.1"))
    allow_factory_code(spec, allow_code=True)
    return adapt_external(spec, classes=5, clip=CLIP, seed=0).eval()


@pytest.mark.parametrize("wrapped", ["bare", "module.", "inside a checkpoint"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_are_loaded_from_every_file_format(wrapped, suffix, tmp_path):
    one, two, path = adapter().network, adapter().network, tmp_path / f"w{suffix}"
    nn.init.normal_(one.fc.weight)
    state = {("module." if wrapped == "module." else "") + k: v for k, v in one.state_dict().items()}
    if suffix == ".pt":
        torch.save({"epoch": 3, "state_dict": state} if wrapped == "inside a checkpoint" else state, path)
    else:
        save_file(state, path)
    load_weights(two, path)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_weights_of_any_brokenness_are_refused_and_never_with_advice_to_run_code(tmp_path):
    """torch raises a dozen types for damaged files, and advises to read them with weights_only=False."""
    network = adapter().network
    torch.save(network.state_dict(), tmp_path / "a.pt")
    intact = (tmp_path / "a.pt").read_bytes()
    reasons = set()
    for at in range(0, 1400, 7):
        (tmp_path / "b.pt").write_bytes(intact[:at] + bytes([intact[at] ^ 0x55]) + intact[at + 1 :])
        try:
            load_weights(network, tmp_path / "b.pt")
        except UserError as error:
            reasons.add(str(error))
    assert len(reasons) > 3
    assert not any("weights_only" in reason for reason in reasons)


def test_archives_that_grow_and_pipes_are_not_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(1 << 24))
    os.mkfifo(tmp_path / "pipe.pt")
    for name, words in (("bomb.pt", "is a compressed archive"), ("pipe.pt", "it is a pipe or a device")):
        with pytest.raises(UserError, match=words):
            load_weights(adapter().network, tmp_path / name)


def test_files_that_do_not_hold_the_weights_of_the_network_are_refused(tmp_path):
    network = adapter().network
    torch.save({"w": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save(network, tmp_path / "whole.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "broken.pt").write_bytes(b"no weights at all")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights at all")
    for name, message in {
        "other.pt": "does not fit the network: Missing key",
        "whole.pt": "could run code",
        "list.pt": "contains no state_dict",
        "broken.pt": "could run code|cannot be read",
        "broken.safetensors": "cannot be read",
        "gone.pt": "cannot be read",
    }.items():
        with pytest.raises(UserError, match=message):
            load_weights(network, tmp_path / name)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_matching_weights_are_loaded_and_the_others_are_named(prefix, tmp_path):
    one, two = (nn.Sequential(*(nn.Linear(4, 4) for _ in range(9)), nn.Linear(4, classes)) for classes in (7, 5))
    torch.save({f"{prefix}{name}": tensor for name, tensor in one.state_dict().items()}, tmp_path / "w.pt")
    before = two.state_dict()["9.weight"].clone()
    assert load_matching_weights(two, tmp_path / "w.pt", "the network") == ["9.weight", "9.bias"]
    assert torch.equal(two.state_dict()["9.weight"], before)
    assert all(torch.equal(two.state_dict()[f"{k}.weight"], one.state_dict()[f"{k}.weight"]) for k in range(9))


def test_weights_of_which_less_than_nine_in_ten_match_are_refused(tmp_path):
    torch.save(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 7)).state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match="does not fit the teacher: 2 of its 4 tensors are in the file"):
        load_matching_weights(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 5)), tmp_path / "w.pt", "the teacher")
