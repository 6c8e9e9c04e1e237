"""Options of ``skd-edge export`` become a request; a recipe gives defaults, and options override them."""

from __future__ import annotations

import pytest

from skd_bench.errors import UsageError
from skd_edge.pipeline.export_model.request import make_export_request
from skd_edge.recipe.schema import Recipe

RECIPE = Recipe.model_validate(
    {
        "name": "some",
        "data": {"kind": "generated"},
        "clip": {"frames": 4, "size": 24},
        "teacher": {"width": 8},
        "students": [{"name": "small", "width": 4, "temporal": "shift"}],
        "export": {"contract": "frames", "int8_agreement": 0.9},
        "licences": {"data": "CC0", "weights": "MIT"},
    }
)


def request(source="x.pt", recipe=None, member=None, network=None, clip=None, **options):
    return make_export_request(source, recipe=recipe, network=network or {}, clip=clip or {}, member=member, **options)


def test_without_a_recipe_and_options_everything_has_a_default():
    made = request()
    assert (made.name, made.precisions, made.contract, made.clips) == ("x", ("fp32",), "clip", None)
    assert (made.clip.frames, made.clip.size, made.network.family) == (8, 32, "mobile")


@pytest.mark.parametrize(("source", "name"), [("a/b/mine.v2.pt", "mine.v2"), ("package.module:make", "make")])
def test_the_name_is_that_of_the_source(source, name):
    assert request(source).name == name
    assert request(source, name="other").name == "other"


def test_a_recipe_gives_the_defaults():
    made = request(recipe=RECIPE, member="small")
    assert (made.name, made.network.width, made.network.temporal) == ("small", 4, "shift")
    assert (made.clip.frames, made.clip.size) == (4, 24)
    assert (made.contract, made.int8_agreement, made.licences.data) == ("frames", 0.9, "CC0")


def test_folders_of_pictures_are_clips_as_in_the_recipe():
    data = {"kind": "folder", "root": "v", "pictures": "always"}
    recipe = Recipe.model_validate(RECIPE.model_dump(exclude={"data"}) | {"data": data})
    assert request(recipe=recipe, member="small").pictures == "always"
    assert request(recipe=RECIPE, member="small").pictures == request().pictures == "auto"


def test_options_override_the_recipe():
    made = request(recipe=RECIPE, member="small", network={"width": 6}, clip={"size": 16}, contract="clip", name="x")
    assert (made.network.width, made.network.temporal, made.clip.frames, made.clip.size) == (6, "shift", 4, 16)
    assert (made.contract, made.name) == ("clip", "x")


def test_options_that_were_not_given_are_none():
    made = request(network={"width": None}, clip={"frames": None}, calibration=None, classes=None)
    assert made == request()


@pytest.mark.parametrize("member", [None, "tiny"])
def test_a_network_that_the_recipe_does_not_have(member):
    with pytest.raises(UsageError, match=r"is not a network of the recipe; choose from teacher, small"):
        request(recipe=RECIPE, member=member)


@pytest.mark.parametrize(
    ("options", "message"), [({"network": {"width": 0}}, "--width 0"), ({"clip": {"frames": -1}}, "--frames -1")]
)
def test_a_value_that_is_not_valid_names_its_option(options, message):
    with pytest.raises(UsageError, match=message):
        request(**options)
