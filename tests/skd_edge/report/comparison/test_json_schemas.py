"""The JSON schemas: the published copies are up to date, and an unknown name is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from skd_bench.errors import UsageError
from skd_edge.report.comparison.json_schemas import SCHEMAS, format_json_schema


@pytest.mark.parametrize("name", SCHEMAS)
def test_published_schemas_equal_those_of_the_code(name: str) -> None:
    published = Path(__file__).parents[4] / f"docs/schemas/{name}.schema.json"
    assert published.read_text() == format_json_schema(name) + "\n", f"skd-edge report --schema {name} > {published}"


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(UsageError, match="unknown schema 'runs'; choose from run, comparison"):
        format_json_schema("runs")
