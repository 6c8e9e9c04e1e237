"""The metrics that a recipe can choose by, by name; separate, so that reading a recipe does not load numpy."""

from __future__ import annotations

from typing import Literal

Metric = Literal["accuracy", "balanced", "macro-f1"]
METRIC_NAMES: dict[Metric, str] = {"accuracy": "accuracy", "balanced": "balanced accuracy", "macro-f1": "macro-F1"}
