"""Parent classes: names with a slash, and confusion matrices that are summed over classes with the same parent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_edge.labels.class_hierarchy import collapse_confusion, find_parent_classes


def test_class_names_with_parents():
    names, of = find_parent_classes(("punch/left", "wave", "punch/right"))
    assert names == ("punch", "wave")
    assert of.tolist() == [0, 1, 0]
    up = collapse_confusion([[5, 1, 4], [1, 8, 1], [3, 0, 7]], ("punch/left", "wave", "punch/right"))
    assert up.confusion == ((19, 1), (2, 8))
    assert up.support == (20, 10)
    assert up.accuracy == 27 / 30
    assert find_parent_classes(("a", "b")) is None
    assert find_parent_classes(("a/1", "a/2")) is None


@pytest.mark.parametrize(
    "classes", [(), ("a",), ("a", "b", "c"), ("a/1", "a/2", "a/3"), ("a/1", "b/1", "c/2")], ids=lambda c: "-".join(c)
)
def test_names_without_useful_parents(classes):
    """No two classes share a parent, or all share one: the level of parents would add nothing."""
    assert find_parent_classes(classes) is None
    assert collapse_confusion(np.eye(len(classes), dtype=int).tolist(), classes) is None


def test_only_the_first_slash_separates():
    names, parents = find_parent_classes(("a/b/1", "a /b/2", "c"))
    assert names == ("a", "c")
    assert parents.tolist() == [0, 0, 1]


@given(
    st.lists(st.sampled_from(["a/1", "a/2", "b/1", "b/2", "c", "d/1"]), min_size=2, max_size=6, unique=True), st.data()
)
def test_the_level_of_parents_counts_the_same_clips(classes, data):
    cell = st.integers(0, 50)
    confusion = [[data.draw(cell) for _ in classes] for _ in classes]
    result = collapse_confusion(confusion, classes)
    if result is None:
        return
    table = np.array(confusion)
    assert sum(result.support) == np.array(result.confusion).sum() == table.sum()
    assert tuple(np.array(result.confusion).sum(1)) == result.support
    fine = np.trace(table) / max(table.sum(), 1)
    assert fine - 1e-12 <= result.accuracy <= 1  # a confusion of siblings counts as right
