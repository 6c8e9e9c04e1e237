"""Class names that say more than one thing: ``punch/left`` and ``punch/right`` are both ``punch``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SEPARATOR = "/"


def find_parent_classes(classes: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.int64]] | None:
    """The parents' names, and the parent of each class ``(C,)``; None where names hold no ``/`` or one parent is all.

    A class without ``/`` is its own parent.
    """
    above = [name.split(_SEPARATOR, 1)[0].strip() for name in classes]
    names = tuple(dict.fromkeys(above))
    if len(names) == len(classes) or len(names) < 2:
        return None
    return names, np.array([names.index(a) for a in above], np.int64)


@dataclass(frozen=True)
class ParentLevelResult:
    """A test at the parents' level: P names, clips of each, clips by parent and answer ``(P, P)``, accuracy in 0..1."""

    classes: tuple[str, ...]
    support: tuple[int, ...]
    confusion: tuple[tuple[int, ...], ...]
    accuracy: float


def collapse_confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> ParentLevelResult | None:
    """A confusion matrix ``(C, C)`` of clips at the parents' level; None where names have no parents."""
    found = find_parent_classes(classes)
    if found is None:
        return None
    names, of = found
    up = np.eye(len(names), dtype=np.int64)[of]
    table = up.T @ np.asarray(confusion, np.int64) @ up
    rows = tuple(tuple(row) for row in table.tolist())
    return ParentLevelResult(names, tuple(table.sum(1).tolist()), rows, float(np.trace(table) / max(table.sum(), 1)))
