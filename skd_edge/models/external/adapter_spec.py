"""The description of an external network that an ``Adapter`` needs, and the matching of its classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from skd_bench.errors import UserError
from skd_bench.listing.class_names import normalise_class_name
from skd_edge.recipe.schema import TeacherClip

InputLayout = Literal["clip", "frames-first", "frames"]


@dataclass(frozen=True)
class AdapterSpec:
    """How a network is divided into substages, and which input it needs.

    Attributes:
        substages: dotted names of the modules whose outputs end the substages.
        input_layout: input of the network's forward, see ``Adapter``.
        layout: axes of the substages' outputs; None: found from their shapes.
        tubelet: number of frames that one token covers; None: found from the shapes.
        clip: the clips that the network needs; a value of None: as in the recipe's section ``clip``.
    """

    substages: tuple[str, ...]
    input_layout: InputLayout = "clip"
    layout: str | None = None
    tubelet: int | None = None
    clip: TeacherClip = field(default_factory=TeacherClip)


@dataclass(frozen=True)
class ExternalNetwork:
    """An external network with its default spec.

    Attributes:
        network: the network.
        spec: how it is divided, unless the recipe says otherwise.
        classes: the class names of its logits, in order; empty if they are not known.
    """

    network: nn.Module
    spec: AdapterSpec
    classes: tuple[str, ...] = ()


def compute_equal_run_ends(count: int, parts: int) -> list[int]:
    """Divide ``count`` items into ``parts`` equal runs; the last index of each: 12 items in 4 runs give 2, 5, 8, 11."""
    return [count * (k + 1) // parts - 1 for k in range(parts)]


def match_class_columns(theirs: Sequence[str], ours: Sequence[str]) -> list[int]:
    """Find the teacher's logit for each class of the dataset.

    Names match if they differ only in case, underscores, hyphens and spaces; an identical name is preferred. The
    teacher may have classes that the dataset does not have.

    Args:
        theirs: class names of the teacher's logits, in order.
        ours: class names of the dataset.

    Returns:
        For each class of the dataset, its index in ``theirs``.

    Raises:
        UserError: A class of the dataset matches no class of the teacher or several, or two classes match the same one.
    """
    places: dict[str, list[int]] = {}
    for place, name in enumerate(theirs):
        places.setdefault(_normalise_name(name), []).append(place)
    found = [[theirs.index(name)] if name in theirs else places.get(_normalise_name(name), []) for name in ours]
    if missing := [name for name, at in zip(ours, found, strict=True) if not at]:
        raise UserError(
            f"the teacher does not have {len(missing)} of the dataset's {len(ours)} classes "
            f"({', '.join(missing[:5])}); it has {', '.join(map(str, theirs[:8]))}{' ...' if len(theirs) > 8 else ''}. "
            "Rename the dataset's classes, name the teacher's logits with teacher.classes, or train the teacher here "
            "(without 'trained')"
        )
    if unclear := [name for name, at in zip(ours, found, strict=True) if len(at) > 1]:
        raise UserError(
            f"class {unclear[0]!r} matches several classes of the teacher, which has {_normalise_name(unclear[0])!r} "
            "more than once; name the teacher's logits with teacher.classes"
        )
    columns = [at[0] for at in found]
    if len(set(columns)) < len(columns):
        raise UserError(
            "two classes of the dataset differ only in case, '_', '-' or spaces, so they match the same class of the "
            "teacher; rename one of them"
        )
    return columns


def _normalise_name(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", normalise_class_name(str(name))).strip().casefold()
