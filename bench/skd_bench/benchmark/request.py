"""What is to be measured of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skd_bench.benchmark.latency import MeasurementSettings
from skd_bench.benchmark.scenarios import LoadScenarios


@dataclass(frozen=True)
class BenchmarkRequest:
    """A bundle to measure, and how.

    Attributes:
        bundle: The bundle's folder.
        settings: Threads, processes and queries.
        extra: Further scenarios, batch sizes and runtimes.
        engines: Engines built by `skd-edge build`. They are measured beside the bundle's files, with CUDA graphs and
            without.
    """

    bundle: Path
    settings: MeasurementSettings = field(default_factory=MeasurementSettings)
    extra: LoadScenarios = field(default_factory=LoadScenarios)
    engines: Sequence[Path] = ()
