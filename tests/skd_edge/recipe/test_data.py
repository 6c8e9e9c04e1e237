"""The section data: which combinations of its keys are valid."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from skd_edge.recipe.data import Data

TABLE = {"kind": "csv", "root": "d", "train": {"s": ["a"]}, "val": {"s": ["b"]}, "test": {"s": ["c"]}}
data = TypeAdapter(Data).validate_python


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "folder"}, "data.root is missing; give the folder"),
        ({"kind": "folder", "unlabelled": "u"}, "give data.val_root, with one folder for each class"),
        ({"kind": "folder", "root": "d", "group": "(a"}, r"'\(a' is not a valid regular expression"),
        (TABLE | {"votes": ["a", "b", "a"]}, "the column 'a' is named twice; each annotator needs their own column"),
        (TABLE | {"votes": ["a"], "annotator": "who"}, "cannot be combined; keep one"),
        ({"kind": "ucf101", "root": "d", "splits": "s", "split": 4}, "less than or equal to 3"),
        ({"kind": "generated", "size": 33}, "multiple of 2"),
        ({"kind": "videos"}, "does not match any of the expected tags"),
    ],
)
def test_invalid_sections_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        data(given)


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "folder", "root": "d"},
        {"kind": "folder", "unlabelled": "u", "val_root": "v"},
        {"kind": "folder", "root": "d", "group": "^(.*)_"},
        TABLE | {"votes": ["a", "b"]},
        TABLE | {"annotator": "who"},
    ],
    ids=str,
)
def test_valid_sections_keep_their_values(given):
    dump = data(given).model_dump(mode="json")
    assert {key: dump[key] for key in given} == given


def test_a_key_that_was_added_later_is_left_out_of_dumps_by_default():
    assert "unlabelled" not in data({"kind": "folder", "root": "d"}).model_dump()
