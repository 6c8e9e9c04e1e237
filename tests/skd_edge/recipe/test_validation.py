"""Any recipe file, valid or not, gives a recipe or one message; and unknown keys with their suggestions."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skd_bench.errors import UsageError
from skd_edge.recipe.loader import load_recipe, resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.recipe.validation import (
    _SYNONYMS,
    escape_path,
    expand_path,
    format_dotted_path,
    format_short_value,
    iter_setting_paths,
)

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


# ------------------------------------------------------------------------------------------ unknown keys
def suggestion(tmp_path, *overrides: str) -> str:
    (tmp_path / "r.yaml").write_bytes(text_of(BASE))
    with pytest.raises(UsageError) as caught:
        load_recipe(tmp_path / "r.yaml", overrides, env={})
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("training.lr", "rate"),
        ("training.bs", "batch"),
        ("training.batch_size", "batch"),
        ("training.wd", "weight_decay"),
        ("training.n_epochs", "epochs"),
        ("training.num_epochs", "epochs"),
        ("clip.num_frames", "frames"),
        ("clip.resolution", "size"),
        ("clip.img_size", "size"),
        ("clip.image_size", "size"),
        ("teacher.clip.image_size", "size"),
    ],
)
def test_a_synonym_suggests_the_setting_of_its_section(tmp_path, key, meant):
    assert f"{key}: no such setting; did you mean {meant!r}? (known here: " in suggestion(tmp_path, f"{key}=1")


def test_a_synonym_in_a_file_is_reported_at_its_line(tmp_path):
    (tmp_path / "r.yaml").write_text("name: r\ndata: {kind: generated}\nstudents: [{name: s}]\ntraining:\n  lr: 0.1\n")
    with pytest.raises(UsageError, match=r"r\.yaml:5: training\.lr: no such setting; did you mean 'rate'\?"):
        load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("augment.lr", "no such setting; remove it"),  # a synonym of another section
        ("students.0.training.lr", "no such setting; remove it"),  # a student has no learning rate of its own
        ("training.epoch", "no such setting; did you mean 'epochs'?"),
        ("clip.epochs", "no such setting here; it exists as training.epochs"),
    ],
)
def test_other_unknown_keys_suggest_the_closest_spelling_or_another_section(tmp_path, key, words):
    assert f"{key}: {words}" in suggestion(tmp_path, f"{key}=1")


def test_every_synonym_is_unknown_and_means_a_setting_of_its_section():
    settings_by_section = {name: set(Recipe.model_fields[name].annotation.model_fields) for name in _SYNONYMS}
    for section, synonyms in _SYNONYMS.items():
        assert set(synonyms.values()) <= settings_by_section[section]
        assert not synonyms.keys() & settings_by_section[section]


# ------------------------------------------------------------------------------------------ paths and values
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b", "/base/a/b"),
        ("../a", "/a"),
        ("/a", "/a"),
        ("${X}/a", "/x/a"),
        ("$${X}/a", "/base/${X}/a"),
        ("$X/a", "/base/$X/a"),
        ("~/a", str(Path.home() / "a")),
    ],
)
def test_paths_are_expanded(text, expected):
    assert expand_path(text, Path("/base"), {"X": "/x"}) == expected


@pytest.mark.parametrize(
    ("text", "error"), [("", ValueError), ("  ", ValueError), ("${Y}", KeyError), ("${E}", KeyError)]
)
def test_paths_that_cannot_be_expanded(text, error):
    with pytest.raises(error):
        expand_path(text, Path("/base"), {"E": ""})


@given(st.lists(st.sampled_from(["a", "/", "$", "{X}", "${X}", "${}", "}"]), min_size=1, max_size=6).map("".join))
def test_an_escaped_path_is_expanded_to_itself(path):
    assert expand_path(escape_path(path), None, {}) == path


@pytest.mark.parametrize(
    ("parts", "text"),
    [(("students", 0, "width"), "students.0.width"), (("a b",), "'a b'"), (("x" * 99,), f"'{'x' * 27}...{'x' * 28}'")],
)
def test_a_path_of_settings_is_short(parts, text):
    assert format_dotted_path(parts) == text


def test_values_in_messages_are_short_and_printable():
    assert format_short_value("a") == "'a'"
    assert len(format_short_value("x" * 999)) <= 62
    assert format_short_value("\udcff").isprintable()
