"""What every section of a recipe is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


def exclude_when_default(default: object) -> Callable[[object], bool]:
    """Leaves a key out of dumps while it has its default, so that adding it renamed no job."""
    return lambda value: value == default


class RecipeSection(BaseModel):
    """A frozen section of a recipe; a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
