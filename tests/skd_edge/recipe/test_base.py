"""The base class of all sections: unknown keys, frozen values, finite numbers, and names."""

from __future__ import annotations

import pytest
from pydantic import Field, ValidationError

from skd_edge.recipe.base import Name, RecipeSection, Share, exclude_when_default


class Section(RecipeSection):
    name: Name = "n"
    share: Share = 0.5
    number: float = 1.0
    later: int = Field(0, exclude_if=exclude_when_default(0))


def test_an_unknown_key_is_an_error():
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Section(nmae="n")


def test_a_section_cannot_be_changed_and_has_a_hash():
    section = Section()
    with pytest.raises(ValidationError, match="frozen"):
        section.share = 0.1
    assert hash(section) == hash(Section())


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan")])
def test_a_share_is_from_0_to_1(value):
    assert (Section(share=0).share, Section(share=1).share) == (0, 1)
    with pytest.raises(ValidationError, match="share"):
        Section(share=value)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_are_finite(value):
    with pytest.raises(ValidationError, match="finite"):
        Section(number=value)


@pytest.mark.parametrize("value", ["", ".hidden", "-option", "a b", "a/b", "x" * 65, "ü"])
def test_names_can_be_file_names(value):
    assert Section(name="a-1_b.c").name == "a-1_b.c"
    with pytest.raises(ValidationError, match="name"):
        Section(name=value)


def test_a_later_key_is_dumped_only_if_it_differs_from_its_default():
    assert "later" not in Section().model_dump()
    assert Section(later=1).model_dump()["later"] == 1
    assert "later" not in Section().model_dump_json()
