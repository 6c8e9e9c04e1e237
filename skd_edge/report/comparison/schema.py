"""The pydantic models of a comparison; their JSON schema is published (docs/schemas/comparison.schema.json).

The docstrings of the models are the descriptions in that schema.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1

# In the order of the columns; metrics that are not listed here follow, sorted by name.
METRIC_DESCRIPTIONS = {
    "accuracy": "accuracy of the file, 0..1",
    "test_accuracy": "accuracy of the file on the test set, 0..1",
    "balanced_accuracy": "mean recall over classes, 0..1",
    "macro_f1": "mean F1 over classes, 0..1",
    "ece": "expected calibration error, 0..1",
    "agreement": "share of clips with the top class of the FP32 file, 0..1",
    "p50_ms": "median latency of a query, batch 1, milliseconds",
    "p90_ms": "90th percentile of the latency, milliseconds",
    "p99_ms": "99th percentile of the latency, milliseconds",
    "load_ms": "time to load the file into a session of the runtime, milliseconds",
    "first_ms": "latency of the first query, milliseconds",
    "peak_mb": "peak memory of a process that has loaded only this file, MiB",
    "bytes": "size of the file, bytes",
    "joules_per_clip": "energy for one clip above that of the idle machine, joules",
}


class _FrozenModel(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class ComparisonSource(_FrozenModel):
    """One source of a comparison.

    Attributes:
        label: Short name, different for each source.
        path: Path of the source as given.
        kind: Kind of the source.
        name: Name of the recipe; empty if unknown.
        device_id: Identifies the device; latencies are compared only if it is equal. Empty if unknown.
        device: Processor and GPUs of the device.
        card: The device info; empty if unknown.
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
        source: Label of its source.
        name: Path and precision, such as "teacher>small int8"; equal names are the same file in different sources.
        student: Name of the network.
        precision: "fp32", "fp16", "bf16", "int8", "int8-trt" or "fp8".
        device_id: Device on which its latency was measured.
        metrics: Values by metric (`METRIC_DESCRIPTIONS` has the units); metrics that were not measured are absent.
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
    """A comparison of sources, as it is written to JSON; it can be used as a baseline later.

    Attributes:
        schema_version: Version of this layout (the key "schema"); see `SCHEMA_VERSION`.
        kind: Always "comparison".
        created_by: Program and version that wrote it.
        sources: The sources.
        rows: The rows of all sources.
    """

    schema_version: int = Field(SCHEMA_VERSION, alias="schema", ge=1)
    kind: Literal["comparison"] = "comparison"
    created_by: str = ""
    sources: list[ComparisonSource]
    rows: list[ComparisonRow]

    def metric_names(self) -> list[str]:
        """The metrics that at least one row has, in the order of the columns."""
        present = {m for row in self.rows for m in row.metrics}
        return [m for m in METRIC_DESCRIPTIONS if m in present] + sorted(present - set(METRIC_DESCRIPTIONS))
