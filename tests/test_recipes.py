"""The recipes of the package are valid, short and described; and docs/recipes.md is up to date."""

from __future__ import annotations

import re
import runpy
from collections import defaultdict
from pathlib import Path

import pytest

from skd_edge.recipe.loader import load_recipe, recipe_schema, resolved_yaml, shipped_recipes
from skd_edge.recipe.schema import Recipe

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
MOST_LINES = 30


class Anything(defaultdict[str, str]):
    """An environment in which every variable is set."""

    def get(self, key: str, default: object = None) -> str:  # type: ignore[override]
        return f"/data/{key.lower()}"


def load(path: Path | str, *overrides: str) -> Recipe:
    return load_recipe(path, overrides, env=Anything())


def test_all_recipes_are_in_the_package():
    assert shipped_recipes() == [path.stem for path in RECIPES]
    assert "quickstart" in shipped_recipes()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_is_valid(path):
    recipe = load(path)
    assert recipe.name == path.stem
    assert load(path.stem) == recipe  # also by its name alone


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_can_be_written_and_loaded_again(path, tmp_path):
    recipe = load(path)
    (tmp_path / "r.yaml").write_text(resolved_yaml(recipe), encoding="utf-8")
    assert load(tmp_path / "r.yaml") == recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_is_short_and_starts_with_a_comment(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert len(lines) <= MOST_LINES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_has_the_parts_of_the_main_job(path):
    """At least two cascade paths, two students, two precisions, a control and a budget."""
    recipe = load(path)
    assert len(recipe.cascade_paths) >= 2
    assert len(recipe.students) >= 2
    assert set(recipe.export.precisions) == {"fp32", "int8"}
    assert "alone" in recipe.schedule.controls
    assert recipe.choice.budget is not None


def test_the_quickstart_needs_no_files():
    recipe = load("quickstart")
    assert recipe.data.kind == "generated"
    assert recipe.labels.noise.rate == 0.4


# ------------------------------------------------------------------------------------------ docs/recipes.md
@pytest.fixture(scope="module")
def reference() -> dict[str, object]:
    return runpy.run_path(str(ROOT / "docs/generate_recipes_md.py"))


def test_the_reference_is_up_to_date(reference):
    written = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    assert written == reference["page"](), "run: python docs/generate_recipes_md.py"


def test_the_reference_describes_every_key():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| *(.*?) *\|$", (ROOT / "docs/recipes.md").read_text("utf-8"), flags=re.M)
    assert {key for key, _, _ in rows} >= set(recipe_schema()["properties"])
    assert [key for key, _, meaning in rows if not meaning] == []


def test_every_note_describes_an_existing_key_without_a_description(reference):
    defs = recipe_schema()["$defs"] | {"": recipe_schema()}
    for name in reference["NOTES"]:
        section, key = name.split(".")
        assert key in defs[section]["properties"], name
        reason = f"{name} has a description in skd_edge/recipe now; remove the note"
        assert "description" not in defs[section]["properties"][key], reason
