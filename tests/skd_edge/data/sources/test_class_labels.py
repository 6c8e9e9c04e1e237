"""Labels of lists: names or indices, and a question where they may be both."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.errors import UserError
from skd_edge.data.sources.class_labels import ListedLabel, read_class_file, resolve_labels

FILE = Path("classes.txt")


def resolved(labels, classes, reading=None):
    listed = [ListedLabel(label, f"f:{i}") for i, label in enumerate(labels, 1)]
    return resolve_labels(listed, tuple(classes), reading, FILE)


def test_names_and_indices():
    assert resolved(["anything", "7"], []) == ["anything", "7"]
    assert resolved(["1", "", "0"], ["walk", "run"]) == ["run", "", "walk"]
    assert resolved(["run", "1"], ["walk", "run"]) == ["run", "run"]  # mixed, as in older recipes
    with pytest.raises(UserError, match=r"f:1: label 2, but classes.txt names 2 classes \(indices start at 0\)"):
        resolved(["2"], ["walk", "run"])
    with pytest.raises(UserError, match=r"class 'wlak' is not in classes.txt \(a misspelling of 'walk'\?\)"):
        resolved(["wlak"], ["walk", "run"])
    with pytest.raises(UserError, match="label 9999999999999, but"):
        resolved(["9999999999999"], ["walk", "run"])


def test_classes_named_by_digits():
    assert resolved(["0", "1"], ["0", "1"]) == ["0", "1"]  # both readings agree
    assert resolved(["3", "4"], ["4", "3"]) == ["3", "4"]  # no indices
    assert resolved(["0", "1"], ["one", "two"]) == ["one", "two"]
    with pytest.raises(UserError, match=r"label 0 may be the class '0', or the class at this place .*'3'.*labels_are"):
        resolved(["0", "1", "2", "3"], ["3", "1", "2", "0"])
    assert resolved(["0", "1"], ["1", "0"], "names") == ["0", "1"]
    assert resolved(["0", "1"], ["1", "0"], "indices") == ["1", "0"]
    with pytest.raises(UserError, match=r"f:2: label 'x' is not a number, but data.labels_are says indices"):
        resolved(["0", "x"], ["x", "0"], "indices")
    assert resolved(["walk", "1"], ["1", "walk"]) == ["walk", "1"]


@given(st.lists(st.integers(0, 99).map(str), min_size=1, max_size=9, unique=True), st.data())
def test_labels_that_fit_both_readings_are_never_read_silently(classes, data):
    labels = data.draw(st.lists(st.sampled_from(classes), min_size=1))
    try:
        assert resolved(labels, classes) == labels
    except UserError:  # a question, only where the other reading is possible and differs
        assert all(int(label) < len(classes) for label in labels)
        assert [classes[int(label)] for label in labels] != labels


def test_the_class_file(tmp_path):
    (tmp_path / "c.txt").write_text("walk\n caf\u0065\u0301\n", encoding="utf-8")
    assert read_class_file(tmp_path, Path("c.txt")) == ("walk", "caf\u00e9")
    assert read_class_file(tmp_path, None) == ()
    (tmp_path / "c.txt").write_text("caf\u00e9\nx\ncaf\u0065\u0301\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"c\.txt:3: class .* is named in line 1 already"):
        read_class_file(tmp_path, Path("c.txt"))
