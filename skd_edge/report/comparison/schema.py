"""What a comparison holds: plain, versioned objects whose JSON schema is published (docs/schemas)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1

# The order of columns; what else was measured follows by name.
METRIC_DESCRIPTIONS = {
    "accuracy": "accuracy of the file, 0..1",
    "test_accuracy": "accuracy of the file on the test set, 0..1",
    "macro_f1": "mean F1 over classes, 0..1",
    "ece": "expected calibration error, 0..1",
    "agreement": "share of clips with the top class of the FP32 file, 0..1",
    "p50_ms": "median latency of a query, batch 1, milliseconds",
    "p90_ms": "90th percentile, milliseconds",
    "p99_ms": "99th percentile, milliseconds",
    "load_ms": "from the file to a session, milliseconds",
    "first_ms": "the first query, milliseconds",
    "peak_mb": "most memory of a process that holds the file alone, MiB",
    "bytes": "size of the file",
    "joules_per_clip": "energy of a query above the idle machine's, joules",
}


class _FrozenModel(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class ComparisonSource(_FrozenModel):
    """One thing that was compared.

    Attributes:
        label: Short, unlike every other's.
        path: As given.
        kind: What it was read from.
        name: Of the recipe that made it; empty where unknown.
        device_id: What must be equal for milliseconds to be compared; empty where unknown.
        device: The device in words.
        card: The device card, where the source has one.
    """

    label: str
    path: str
    kind: Literal["run", "bundle", "bench", "accuracy", "pack", "comparison"]
    name: str = ""
    device_id: str = ""
    device: str = ""
    card: dict[str, Any] = {}


class ComparisonRow(_FrozenModel):
    """One file of one source.

    Attributes:
        source: The label of its source.
        name: The same in every source for the same file: cascade and precision.
        student: The network.
        precision: What its numbers are.
        device_id: Where its milliseconds were measured.
        metrics: Numbers by name (see `METRICS` for units); what was not measured is absent.
        intervals: 95 % intervals by metric.
    """

    source: str
    name: str
    student: str = ""
    precision: str = ""
    device_id: str = ""
    metrics: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}


class Comparison(_FrozenModel):
    """Sources side by side: the content of a comparison's JSON, and what serves as a baseline later."""

    schema_version: int = Field(SCHEMA_VERSION, alias="schema", ge=1)
    kind: Literal["comparison"] = "comparison"
    created_by: str = ""
    sources: list[ComparisonSource]
    rows: list[ComparisonRow]

    def metric_names(self) -> list[str]:
        """Every metric that some row has, in the order of columns."""
        present = {m for row in self.rows for m in row.metrics}
        return [m for m in METRIC_DESCRIPTIONS if m in present] + sorted(present - set(METRIC_DESCRIPTIONS))
