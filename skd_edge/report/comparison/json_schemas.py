"""The JSON schemas of what the report reads and writes, as they stand in docs/schemas."""

from __future__ import annotations

import json

from pydantic import BaseModel

from skd_bench.errors import UsageError
from skd_edge.report.comparison.schema import Comparison
from skd_edge.report.schema import RunReport

SCHEMAS: dict[str, type[BaseModel]] = {"run": RunReport, "comparison": Comparison}


def format_json_schema(name: str) -> str:
    """A JSON schema (draft 2020-12) as text.

    Args:
        name: "run" (`report.json`) or "comparison" (`report --json`, `--store`).

    Raises:
        UsageError: There is no such schema.
    """
    if name not in SCHEMAS:
        raise UsageError(f"there is no schema {name!r}; there are: {', '.join(SCHEMAS)}")
    schema = SCHEMAS[name].model_json_schema(by_alias=True)
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2)
