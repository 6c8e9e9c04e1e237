"""docs/students.md: its example is a recipe, and its table has the numbers of the networks."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from skd_edge.models.catalogue import describe_network
from skd_edge.recipe.loader import load_recipe
from skd_edge.recipe.networks import MOBILE_FAMILIES
from skd_edge.recipe.schema import NetworkSpec
from skd_edge.recipe.sections import ClipSettings

PAGE = (Path(__file__).resolve().parents[2] / "docs/students.md").read_text("utf-8")


def test_the_example_is_a_recipe(tmp_path):
    (example,) = re.findall(r"^```yaml\n(students:.*?)^```", PAGE, flags=re.M | re.S)
    recipe = {"name": "doc", "data": {"kind": "generated"}} | yaml.safe_load(example)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    students = load_recipe(tmp_path / "recipe.yaml").students
    assert [s.source for s in students] == [None, "timm", "factory"]
    assert [s.temporal for s in students] == ["conv", "shift", "none"]
    assert students[2].code == tmp_path


def test_the_table_of_families_has_the_numbers_of_the_networks():
    rows = re.findall(r"^\| `([\w-]+)` \| (\d+) \| ([\d.]+) M \| ([\d.]+) G \|$", PAGE, flags=re.M)
    assert {family for family, *_ in rows} == {*MOBILE_FAMILIES}
    for family, width, parameters, macs in rows:
        spec = NetworkSpec.model_validate({"name": "n", "family": family, "width": int(width)})
        entry = describe_network("n", spec, ClipSettings(frames=8, size=112))
        assert (f"{entry.parameters / 1e6:.2f}", f"{entry.macs / 1e9:.2f}") == (parameters, macs)
