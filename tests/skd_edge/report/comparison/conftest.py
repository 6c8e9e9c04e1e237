"""Sources of comparisons for tests: a benchmark as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest


class BenchJson:
    """Writes a benchmark; `device` is its device info."""

    device: ClassVar[dict[str, Any]] = {
        "cpu": "Test CPU",
        "cores_usable": 2,
        "isa": ["avx2"],
        "runtimes": {"ort": "1.30"},
        "gpus": None,
    }

    def __call__(self, path: Path, p50: float, *, device: dict[str, Any] | None = None, name: str = "small") -> Path:
        """Write what `skd-edge bench --json` prints for one FP32 file."""
        latency = {
            "name": "f",
            "n": 1200,
            "processes": 5,
            "p50_ms": p50,
            "p50_interval": [0.98 * p50, 1.02 * p50],
            "p90_ms": 1.2 * p50,
            "p90_interval": [1.1 * p50, 1.3 * p50],
            "p99_ms": None,
            "p99_interval": None,
            "load_ms": 12.0,
            "first_ms": 3.0,
            "steady": True,
            "peak_mb": 80.0,
        }
        artefact = {
            "file": f"artefacts/{name}.fp32.onnx",
            "default": True,
            "student": name,
            "path": ["teacher", name],
            "precision": "fp32",
            "runtime": "ort",
            "bytes": 123_000,
            "facts": {},
            "latency": latency,
            "energy": {"reason": "not measurable here: no counter"},
            "claimed": {"accuracy": 0.8},
            "same_device": True,
            "batches": [{"batch": b, "p50_ms": p50 * b, "clips_per_second": 900 / p50} for b in (1, 2)],
        }
        data = {"schema": 1, "bundle": "b", "name": "n", "device": device or self.device, "artefacts": [artefact]}
        path.write_text(json.dumps(data))
        return path


@pytest.fixture
def bench_json() -> BenchJson:
    """``bench_json(path, p50)`` writes a benchmark of one FP32 file and returns the path."""
    return BenchJson()
