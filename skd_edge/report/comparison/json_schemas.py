"""The JSON schemas of `report.json`, `crossval.json` and comparisons; docs/schemas holds their published copies."""

from __future__ import annotations

import json

from pydantic import BaseModel

from skd_bench.errors import UsageError
from skd_edge.report.comparison.schema import Comparison
from skd_edge.report.crossval.schema import CrossValidationReport
from skd_edge.report.schema import RunReport

SCHEMAS: dict[str, type[BaseModel]] = {"run": RunReport, "comparison": Comparison, "crossval": CrossValidationReport}


def format_json_schema(name: str) -> str:
    """A JSON schema (draft 2020-12) as text.

    Args:
        name: "run" (`report.json`), "comparison" (`report --json`, `--store`) or "crossval" (`crossval.json`).

    Raises:
        UsageError: The name is unknown.
    """
    if name not in SCHEMAS:
        raise UsageError(f"unknown schema {name!r}; choose from {', '.join(SCHEMAS)}")
    schema = SCHEMAS[name].model_json_schema(by_alias=True)
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2)
