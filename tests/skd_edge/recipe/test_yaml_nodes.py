"""Parsing of YAML: values, source lines, and text that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from skd_bench.errors import UsageError
from skd_edge.recipe.yaml_nodes import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_DIGITS,
    SourceLocation,
    YamlNode,
    decode_utf8,
    parse_plain_scalar,
    parse_yaml,
    read_recipe_bytes,
)

LOCATION = SourceLocation("r.yaml", 1, Path("/recipes"))


def plain(node: YamlNode) -> object:
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    return [plain(child) for child in node.value] if isinstance(node.value, list) else node.value


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("7", 7),
        ("-7", -7),
        ("007", 7),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("٣", "٣"),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e-3", 1e-3),
        ("1.e3", 1000.0),
        ("e3", "e3"),
        (".inf", float("inf")),
        ("-.inf", float("-inf")),
        ("2024-01-01", "2024-01-01"),
        ("1:30", "1:30"),
    ],
)
def test_plain_scalars(raw, value):
    found = parse_plain_scalar(raw)
    assert found == value
    assert type(found) is type(value)


def test_not_a_number_is_a_float():
    found = parse_plain_scalar(".nan")
    assert isinstance(found, float)
    assert found != found


def test_a_whole_number_has_a_limited_number_of_digits():
    assert parse_plain_scalar("9" * MAX_DIGITS) == 10**MAX_DIGITS - 1
    with pytest.raises(ValueError, match=f"{MAX_DIGITS + 1} digits"):
        parse_plain_scalar("9" * (MAX_DIGITS + 1))


def test_every_node_has_its_line_and_a_scalar_its_text():
    tree = parse_yaml("a: 1\nb:\n  - x\n  - {c: 1.50}\n'd': 'no'\n", LOCATION)
    assert plain(tree) == {"a": 1, "b": ["x", {"c": 1.5}], "d": "no"}
    assert str(tree.child("b").child(0).location) == "r.yaml:3"
    assert tree.child("b").child(1).child("c").raw == "1.50"
    assert str(tree.child("d").location) == "r.yaml:5"


def test_a_child_that_does_not_exist_is_none():
    tree = parse_yaml("a: [1]", LOCATION)
    assert tree.child("b") is None
    assert [tree.child("a").child(index) for index in (1, -1, "0")] == [None] * 3
    assert tree.child("a").child(0).child("x") is None


def test_an_option_has_no_line():
    option = SourceLocation("--set a=[1,", None, Path())
    assert option.at_line(3) is option
    with pytest.raises(UsageError, match=r"^--set a=\[1,: not valid YAML"):
        parse_yaml("[1,", option)


@pytest.mark.parametrize("text", ["", "# only a comment", "---\n"])
def test_an_empty_document(text):
    tree = parse_yaml(text, LOCATION)
    assert tree is None or tree.value is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "r.yaml:2: 'a' is given twice .first at r.yaml:1.; remove one"),
        ("a: 1\nb: *a", r"r.yaml:2: an alias \(\*name\) is not allowed"),
        ("a: !!int 1", "r.yaml:1: the tag .* is not allowed in recipes; remove it"),
        ("a: 1\n---\nb: 2", "r.yaml:2: a second document .* is not allowed"),
        ("{[a]: 1}", "r.yaml:1: a key cannot be a mapping or list"),
        ("a: 1\n\tb: 2", "r.yaml:2: a tab is not allowed as indentation"),
        ("a: \x07", "r.yaml:1: a control character is not allowed in YAML"),
        ('a: "\\0"', "r.yaml:1: text with a NUL character"),
        ("a: " + "[" * MAX_DEPTH, f"nested deeper than {MAX_DEPTH} levels"),
        ("a: " + "9" * 99, "r.yaml:1: not valid YAML: a whole number of 99 digits"),
    ],
)
def test_refused_text_names_its_line(text, message):
    with pytest.raises(UsageError, match=message):
        parse_yaml(text, LOCATION)


def test_bytes_that_are_not_utf8_name_their_line():
    assert decode_utf8(b"\xef\xbb\xbfa: \xc3\xbc", "r.yaml") == "a: ü"
    with pytest.raises(UsageError, match=r"r\.yaml:2: byte 0xfc is not UTF-8 text"):
        decode_utf8(b"a: 1\nb: \xfc", "r.yaml")


def test_a_file_has_a_limited_size(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"#" * MAX_BYTES)
    assert len(read_recipe_bytes(path, "r.yaml")) == MAX_BYTES
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(UsageError, match=r"r\.yaml: larger than 1024 KiB"):
        read_recipe_bytes(path, "r.yaml")
    with pytest.raises(UsageError, match=r"r\.yaml: this recipe cannot be read"):
        read_recipe_bytes(tmp_path, "r.yaml")
