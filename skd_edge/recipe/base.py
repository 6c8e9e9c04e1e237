"""The base class of all sections of a recipe, and types that several of them use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from skd_bench.listing.class_names import normalise_class_name

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]

ClassName = Annotated[str, AfterValidator(normalise_class_name)]


def exclude_when_default(default: object) -> Callable[[object], bool]:
    """Return a pydantic ``exclude_if`` that leaves a key out of dumps while it has its default.

    The dump is part of a job's hash. So a key that is added later does not change the hashes of existing jobs.
    """
    return lambda value: value == default


class RecipeSection(BaseModel):
    """A frozen section of a recipe; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
