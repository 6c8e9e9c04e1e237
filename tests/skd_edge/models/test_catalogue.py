"""The catalogue of networks: its numbers are those of the networks, and those that their authors report."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from skd_bench.errors import UsageError
from skd_edge.cli.main import run
from skd_edge.models.builder import build_network
from skd_edge.models.catalogue import describe_network, iter_catalogue
from skd_edge.models.tsm import count_parameters
from skd_edge.recipe.schema import NetworkSpec, Recipe
from skd_edge.recipe.sections import ClipSettings


def test_entries_of_a_recipe_have_the_numbers_of_the_built_networks(tmp_path, capsys):
    students = [{"name": "small", "width": 8}, {"name": "lite", "family": "efficientnet-lite0", "temporal": "none"}]
    recipe = {"name": "r", "data": {"kind": "generated"}, "teacher": {"width": 8}, "students": students}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    assert run(["models", str(tmp_path / "r.yaml"), "--json", "--set", "clip.size=224", "--set", "clip.frames=1"]) == 0
    teacher, small, lite = json.loads(capsys.readouterr().out)
    clip = ClipSettings(frames=1, size=224)
    net = build_network(NetworkSpec(name="n", width=8), classes=10, clip=clip, seed=0).eval()
    assert small["parameters"] == count_parameters(net)
    with torch.no_grad():
        features = net(torch.zeros(1, 3, 1, 224, 224)).features
    assert small["substages"] == [[f.shape[2], f.shape[1]] for f in features]
    assert teacher["substages"] == [[8, 1], [16, 1], [32, 1], [64, 1]]
    assert lite["macs"] == pytest.approx(407e6, rel=0.07)  # the number of the authors, with 1,000 classes


def test_macs_grow_with_the_square_of_the_width():
    """Twice the width gives about four times the MACs in the 3x3 blocks, and twice the MACs in the stem."""
    clip = ClipSettings(frames=4, size=32)
    narrow, wide = (
        describe_network("n", NetworkSpec(name="n", family="resnet", width=w, temporal="none"), clip) for w in (16, 32)
    )
    assert 3.5 < wide.macs / narrow.macs < 4.0
    assert narrow.clip == (4, 32, 32)


def test_the_text_is_a_table_and_code_needs_permission(tmp_path, capsys):
    recipe = {"name": "r", "data": {"kind": "generated"}, "students": [{"name": "small", "width": 8}]}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    assert run(["models", str(tmp_path / "r.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("network")
    assert "8x8 16x8 32x8 64x8" in lines[2]
    code = {"factory": "gone:net", "substages": ["a", "b", "c", "d"]}
    with pytest.raises(UsageError, match="runs somebody's code"):
        list(iter_catalogue(Recipe.model_validate(recipe | {"teacher": code})))


def test_every_available_network_is_listed_or_names_the_missing_package():
    entries = {entry.name: entry for entry in iter_catalogue()}
    for entry in entries.values():
        assert entry.missing or (
            entry.parameters > 1000 and entry.macs > entry.parameters and len(entry.substages) == 4
        )
    printed = {"torchvision: r3d_18": 33.4, "torchvision: mvit_v2_s": 34.5, "timm: resnet50": 25.6}
    for name, millions in printed.items():  # the reported numbers include a head for 400 or 1,000 classes
        if not entries[name].missing:
            assert entries[name].parameters / 1e6 == pytest.approx(millions, rel=0.09)
    videomae = entries["hub: (a VideoMAE, base size)"]
    if not videomae.missing:
        assert videomae.parameters / 1e6 == pytest.approx(86.2, rel=0.02)
        assert videomae.macs / 1e9 == pytest.approx(180, rel=0.03)  # what the paper calls 180 GFLOPs are MACs
