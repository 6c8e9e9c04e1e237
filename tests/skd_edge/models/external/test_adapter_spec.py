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
