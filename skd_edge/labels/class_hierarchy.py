"""Class names with a parent: ``punch/left`` and ``punch/right`` both have the parent ``punch``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SEPARATOR = "/"


def find_parent_classes(classes: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.int64]] | None:
    """Find the parent class of each class.

    The parent is the part of the name before the first ``/``; a class without ``/`` is its own parent.

    Args:
        classes: C class names.

    Returns:
        The P parent names in order of first appearance, and the index of each class's parent ``(C,)``. None if no two
        classes share a parent, or if all classes share one.
    """
    parent_names = [name.split(_SEPARATOR, 1)[0].strip() for name in classes]
    names = tuple(dict.fromkeys(parent_names))
    if len(names) == len(classes) or len(names) < 2:
        return None
    return names, np.array([names.index(parent) for parent in parent_names], np.int64)


@dataclass(frozen=True)
class ParentLevelResult:
    """Test results at the level of parent classes.

    Attributes:
        classes: P parent names.
        support: number of clips of each parent.
        confusion: ``(P, P)`` numbers of clips by true parent (row) and predicted parent (column).
        accuracy: share of clips whose predicted class has the true parent, in [0, 1].
    """

    classes: tuple[str, ...]
    support: tuple[int, ...]
    confusion: tuple[tuple[int, ...], ...]
    accuracy: float


def collapse_confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> ParentLevelResult | None:
    """Sum a confusion matrix over classes with the same parent.

    Args:
        confusion: ``(C, C)`` numbers of clips by true class (row) and predicted class (column).
        classes: C class names.

    Returns:
        The result at the level of parents; None if ``find_parent_classes`` finds no parents.
    """
    found = find_parent_classes(classes)
    if found is None:
        return None
    names, parents = found
    membership = np.eye(len(names), dtype=np.int64)[parents]  # (C, P)
    table = membership.T @ np.asarray(confusion, np.int64) @ membership
    rows = tuple(tuple(row) for row in table.tolist())
    return ParentLevelResult(names, tuple(table.sum(1).tolist()), rows, float(np.trace(table) / max(table.sum(), 1)))
