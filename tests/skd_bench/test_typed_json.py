"""JSON values become annotated types, or the error gives the place of the first wrong value."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.typed_json import parse_typed_json


@dataclass
class Point:
    x: float
    y: float = 0.0


@dataclass
class Shape:
    kind: Literal["open", "closed"]
    points: list[Point]
    size: tuple[int, float]
    names: dict[str, str] = field(default_factory=dict)
    parent: Point | None = None
    note: Any = None
    checked: bool = False


finite = st.floats(-1e300, 1e300)
points = st.builds(Point, finite, finite)
shapes = st.builds(
    Shape,
    st.sampled_from(["open", "closed"]),
    st.lists(points, max_size=3),
    st.tuples(st.integers(), finite),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3),
    st.none() | points,
    st.none() | st.integers() | st.lists(st.booleans(), max_size=2),
    st.booleans(),
)


@given(shapes)
def test_a_written_dataclass_is_read_back(shape):
    assert parse_typed_json(Shape, json.loads(json.dumps(asdict(shape))), "") == shape


def test_defaults_may_be_missing_and_whole_numbers_become_floats():
    got = parse_typed_json(Shape, {"kind": "open", "points": [{"x": 1}], "size": [1, 2]}, "")
    assert got == Shape("open", [Point(1.0)], (1, 2.0))
    assert type(got.points[0].x) is float


SHAPE = {"kind": "open", "points": [{"x": 1.5}], "size": [1, 2.5]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "round"}, "'kind' is 'round'; it must be one of 'open', 'closed'"),
        ({"points": [{"x": 1}, {"x": "1"}]}, r"'points\[1\].x' is '1'; it must be float"),
        ({"points": [{"y": 1}]}, r"'points\[0\].x' is missing"),
        ({"points": [{"x": 1, "z": 1}]}, r"'points\[0\].z' is not a known key"),
        ({"points": [3]}, r"'points\[0\]' is 3; it must be an object"),
        ({"points": {}}, "'points' is {}"),
        ({"points": [{"x": True}]}, r"'points\[0\].x' is True"),
        ({"points": [{"x": float("inf")}]}, r"'points\[0\].x' is inf"),
        ({"size": [1]}, r"'size' is \[1\]"),
        ({"size": [1.0, 2]}, r"'size\[0\]' is 1.0; it must be int"),
        ({"size": [True, 2]}, r"'size\[0\]' is True; it must be int"),
        ({"names": {"a": 1}}, "'names.a' is 1; it must be str"),
        ({"parent": []}, r"'parent' is \[\]; it must be an object"),
        ({"checked": 1}, "'checked' is 1; it must be bool"),
        ({"kind": ["open"]}, r"'kind' is \['open'\]; it must be one of"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(change, words):
    with pytest.raises(ValueError, match=words):
        parse_typed_json(Shape, SHAPE | change, "")


def test_the_message_starts_with_the_given_path_and_shortens_long_values():
    with pytest.raises(ValueError, match=r"'a\.b\.x' is missing"):
        parse_typed_json(Point, {}, "a.b")
    with pytest.raises(ValueError, match="'a' is") as caught:
        parse_typed_json(int, "x" * 1000, "a")
    assert len(str(caught.value)) < 120


def test_an_object_for_a_typed_dict_is_returned_as_it_is():
    """Another version may have stored it with other keys."""

    class Info(TypedDict):
        cpu: str

    assert parse_typed_json(Info, {"gpu": 3}, "info") == {"gpu": 3}
    assert parse_typed_json(Info | None, None, "info") is None
    with pytest.raises(ValueError, match="'info' is 3; it must be an object"):
        parse_typed_json(Info, 3, "info")
