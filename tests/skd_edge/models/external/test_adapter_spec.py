"""Matching of class names, and equal runs of layers."""

from __future__ import annotations

import pytest

from skd_bench.errors import UserError
from skd_edge.models.external.adapter_spec import compute_equal_run_ends, match_class_columns


def test_class_names_match_up_to_case_and_separators():
    assert match_class_columns(("b", "A_x", "c"), ("a-X", "b")) == [1, 0]
    assert match_class_columns(("Run", "run"), ("run",)) == [1]
    with pytest.raises(UserError, match="matches several classes of the teacher"):
        match_class_columns(("Run", "run"), ("RUN",))
    with pytest.raises(UserError, match="two classes of the dataset differ only in case"):
        match_class_columns(("run",), ("Run", "RUN"))
    assert compute_equal_run_ends(12, 4) == [2, 5, 8, 11]


@pytest.mark.parametrize(("count", "parts"), [(1, 1), (4, 4), (5, 4), (13, 4), (24, 4), (7, 3)])
def test_equal_runs_end_at_the_last_item_and_differ_by_at_most_one(count, parts):
    ends = compute_equal_run_ends(count, parts)
    lengths = [end - start for start, end in zip([-1, *ends], ends, strict=False)]
    assert ends[-1] == count - 1
    assert max(lengths) - min(lengths) <= 1


def test_an_identical_name_is_preferred_to_a_similar_one():
    assert match_class_columns(("jump-high", "jump_high"), ("jump_high",)) == [1]


def test_a_missing_class_is_named_with_the_classes_of_the_teacher():
    with pytest.raises(UserError, match=r"does not have 2 of the dataset's 3 classes \(swim, fly\); it has run, sit\."):
        match_class_columns(("run", "sit"), ("swim", "run", "fly"))
