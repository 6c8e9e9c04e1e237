"""What an adapter must know of a network made elsewhere, and what a maker of such networks gives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from skd_bench.errors import UserError
from skd_edge.recipe.schema import TeacherClip

InputLayout = Literal["clip", "frames-first", "frames"]


@dataclass(frozen=True)
class AdapterSpec:
    """How a network is cut and what it is given.

    Attributes:
        substages: dotted names of the modules whose outputs end the substages.
        input_layout: what its forward takes, see ``Adapter``.
        layout: axes of the substages' outputs; None: told from their shapes.
        tubelet: frames that a token spans; None: told from the shapes.
        clip: what its clips must be; a None in it: as the recipe's clip.
    """

    substages: tuple[str, ...]
    input_layout: InputLayout = "clip"
    layout: str | None = None
    tubelet: int | None = None
    clip: TeacherClip = field(default_factory=TeacherClip)


@dataclass(frozen=True)
class ExternalNetwork:
    """A network, its ready spec, and the names of its logits where it knows them."""

    network: nn.Module
    spec: AdapterSpec
    classes: tuple[str, ...] = ()


def compute_equal_run_ends(count: int, parts: int) -> list[int]:
    """The last index of each of ``parts`` equal runs of ``count`` things: 12 in 4 gives 2, 5, 8, 11."""
    return [count * (k + 1) // parts - 1 for k in range(parts)]


def match_class_columns(theirs: Sequence[str], ours: Sequence[str]) -> list[int]:
    """For each of the data's classes, which of the teacher's logits is its own.

    Names are equal up to case, underscores, hyphens and spaces. The teacher may know more classes than the data has.

    Args:
        theirs: names of the teacher's logits, in their order.
        ours: the data's classes.

    Raises:
        UserError: A class of the data is none, or two, of the teacher's.
    """
    places: dict[str, list[int]] = {}
    for place, name in enumerate(theirs):
        places.setdefault(_normalise_name(name), []).append(place)
    found = [[theirs.index(name)] if name in theirs else places.get(_normalise_name(name), []) for name in ours]
    if missing := [name for name, at in zip(ours, found, strict=True) if not at]:
        raise UserError(
            f"the teacher does not know {len(missing)} of the data's {len(ours)} classes ({', '.join(missing[:5])}); "
            f"it knows {', '.join(map(str, theirs[:8]))}{' ...' if len(theirs) > 8 else ''}. Rename the data's "
            "classes, name the teacher's logits with teacher.classes, or let it learn them (without 'trained')"
        )
    if unclear := [name for name, at in zip(ours, found, strict=True) if len(at) > 1]:
        raise UserError(
            f"class {unclear[0]!r} could be several of the teacher's: {_normalise_name(unclear[0])!r} is there "
            "twice; name the teacher's logits with teacher.classes"
        )
    columns = [at[0] for at in found]
    if len(set(columns)) < len(columns):
        raise UserError("two classes of the data have one name up to case, '_' and '-', and so one of the teacher's")
    return columns


def _normalise_name(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", str(name)).strip().casefold()
