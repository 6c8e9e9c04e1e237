"""JSON of any shape, size, depth and number: a value that code can work with, or one reason."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.untrusted.json_file import MAX_DEPTH, parse_json, read_json

FINITE = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**62), 2**62)
VALUES = st.recursive(
    st.none() | st.booleans() | FINITE | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
)


@given(VALUES)
def test_what_json_writes_is_read(value):
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("NaN", "not a JSON number"),
        ('{"a": -Infinity}', "not a JSON number"),
        ("[1e999]", "too large a number"),
        ("9" * 19, "too large a whole number"),
        ("-" + "9" * 5000, "too large a whole number"),
        ("[" * 200_000, "levels deep"),
        ("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), "levels deep"),
        ('{"a":' * 90 + "1" + "}" * 90, "levels deep"),
        ("", "Expecting value"),
        ("{]", "Expecting property"),
    ],
)
def test_what_would_fail_later_is_refused_now(text, words):
    with pytest.raises(ValueError, match=words):
        parse_json(text)


def test_the_deepest_value_that_is_read():
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)


def test_size_and_encoding_are_checked(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json", max_bytes=100) == {"a": 1}
    with pytest.raises(OSError, match="larger than 0 KiB"):
        read_json(tmp_path / "a.json", max_bytes=5)
    (tmp_path / "a.json").write_bytes(b'"\xff"')
    with pytest.raises(ValueError, match="decode"):
        read_json(tmp_path / "a.json", max_bytes=100)
