"""The recipes that ship: each loads, says what it is, reads back as written; the reference is current."""

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


def test_all_of_them_ship():
    assert shipped_recipes() == [path.stem for path in RECIPES]
    assert "quickstart" in shipped_recipes()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_validates(path):
    recipe = load(path)
    assert recipe.name == path.stem
    assert load(path.stem) == recipe  # by its bare name too


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_reads_back_as_it_was_written(path, tmp_path):
    recipe = load(path)
    (tmp_path / "r.yaml").write_text(resolved_yaml(recipe), encoding="utf-8")
    assert load(tmp_path / "r.yaml") == recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_is_short_and_says_what_it_is_for(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert len(lines) <= MOST_LINES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_tries_what_the_main_job_promises(path):
    """Two paths, two students within the budget and one beside it, two precisions, a control."""
    recipe = load(path)
    assert len(recipe.cascade_paths) >= 2
    assert len(recipe.students) >= 2
    assert set(recipe.export.precisions) == {"fp32", "int8"}
    assert "alone" in recipe.schedule.controls
    assert recipe.choice.budget is not None


def test_the_quickstart_needs_nothing():
    recipe = load("quickstart")
    assert recipe.data.kind == "generated"
    assert recipe.labels.noise.rate == 0.4


# ------------------------------------------------------------------------------------------ docs/recipes.md
@pytest.fixture(scope="module")
def reference() -> dict[str, object]:
    return runpy.run_path(str(ROOT / "docs/generate_recipes_md.py"))


def test_the_reference_is_current(reference):
    written = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    assert written == reference["page"](), "run: python docs/generate_recipes_md.py"


def test_the_reference_says_something_about_every_key():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| *(.*?) *\|$", (ROOT / "docs/recipes.md").read_text("utf-8"), flags=re.M)
    assert {key for key, _, _ in rows} >= set(recipe_schema()["properties"])
    assert [key for key, _, what in rows if not what] == []


def test_no_note_describes_a_key_that_is_gone(reference):
    defs = recipe_schema()["$defs"] | {"": recipe_schema()}
    for name in reference["NOTES"]:
        section, key = name.split(".")
        assert key in defs[section]["properties"], name
        assert "description" not in defs[section]["properties"][key], f"{name} has words of its own in recipe.py now"
