"""Any recipe file, valid or not, gives a recipe or one message; and unknown keys with their suggestions."""

from __future__ import annotations

import copy
import math

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skd_bench.errors import UsageError
from skd_edge.recipe.loader import load_recipe, resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.recipe.validation import iter_setting_paths

FUZZ = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
PARTS = {part for path in iter_setting_paths(Recipe) for part in path.split(".")}
KEYS = sorted(PARTS | {"extends", "<<", "[key]", "folder", ""})
WORDS = [
    "generated",
    "folder",
    "csv",
    "list",
    "fp32",
    "int8",
    "8 ms",
    "0.5 x teacher",
    "${NOPE}",
    "~",
    "..",
    "no",
    "\0",
]

keys = st.sampled_from(KEYS) | st.text(max_size=8)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**30, max_value=10**60)
    | st.floats()
    | st.sampled_from(WORDS)
    | st.text(max_size=20)
)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5), max_leaves=25
)
BASE = {
    "name": "fuzz",
    "data": {"kind": "folder", "root": "videos"},
    "clip": {"frames": 8, "mean": [0.4, 0.4, 0.4]},
    "assistants": [{"name": "a", "width": 12, "depths": [1, 1, 1, 1]}],
    "students": [{"name": "s", "width": 8}, {"name": "t"}],
    "schedule": {"paths": [[], ["a"]]},
    "training": {"rate": 0.01, "losses": {"logits": 1.0}},
    "choice": {"budget": "8 ms"},
}


@st.composite
def damaged(draw: st.DrawFn) -> object:
    """A valid recipe with up to three values changed, removed or added."""
    recipe = copy.deepcopy(BASE)
    for _ in range(draw(st.integers(0, 3))):
        here: object = recipe
        while True:
            if isinstance(here, dict) and here:
                key: object = draw(st.sampled_from(sorted(here, key=str)) | keys)
            elif isinstance(here, list) and here:
                key = draw(st.integers(0, len(here) - 1))
            else:
                break
            inner = here.get(key) if isinstance(here, dict) else here[key]
            if not isinstance(inner, dict | list) or not inner or draw(st.booleans()):
                here[key] = draw(trees | st.sampled_from([math.nan, math.inf, 10**39]))
                break
            here = inner
    return recipe


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")

    def _check(data: bytes, overrides: tuple[str, ...] = ()) -> bool:
        (folder / "r.yaml").write_bytes(data)
        recipe = None
        try:
            recipe = load_recipe(folder / "r.yaml", overrides, env={})
        except UsageError as error:
            message = str(error).strip()
        else:
            message = ""
        if recipe is None:
            assert 0 < len(message) < 100_000
            return False
        (folder / "again.yaml").write_text(resolved_yaml(recipe), encoding="utf-8")
        assert load_recipe(folder / "again.yaml", env={}) == recipe
        return True

    return _check


def text_of(value: object, **options: object) -> bytes:
    return yaml.safe_dump(value, **options).encode("utf-8", "surrogatepass")


def test_the_undamaged_recipe_loads(check):
    assert check(text_of(BASE))


@FUZZ
@given(damaged(), st.booleans())
def test_damaged_recipes_end_in_a_recipe_or_one_message(check, value, flow):
    check(text_of(value, default_flow_style=flow))


@FUZZ
@given(trees)
def test_any_structure(check, value):
    check(text_of(value))


@FUZZ
@given(st.binary(max_size=200))
def test_random_bytes(check, data):
    check(data)


@FUZZ
@given(st.text(alphabet="abk:-?,[]{}#&*!|>'\"%@`~<=.0123456789eE+_ \n\t\\uUx\r\u0085\u2028\ufeff", max_size=120))
def test_text_of_yaml_signs(check, text):
    check(text.encode())


@FUZZ
@given(st.sampled_from(sorted(iter_setting_paths(Recipe))) | st.text(max_size=12), leaves | st.text(max_size=30))
def test_overrides(check, key, value):
    check(text_of(BASE), (f"{key}={value}",))


@FUZZ
@given(
    st.integers(0, 500), st.sampled_from(["[", "{a: ", "- ", "? ", "{? ", "&a [", "'", '"', "a:\n ", "|\n", "!!seq ["])
)
def test_nesting_at_any_depth(check, depth, opening):
    assert not check(b"name: x\nstudents: " + opening.encode() * depth)
