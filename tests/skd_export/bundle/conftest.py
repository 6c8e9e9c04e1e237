"""A function that writes a small bundle, and what it writes."""

import pytest

from skd_bench.video.types import Preprocessing, Sampling
from skd_export.bundle.writer import ModelFile, write_bundle


@pytest.fixture
def class_names():
    """The classes of the bundles that `write` makes."""
    return ["left", "right", "up", "down", "still"]


@pytest.fixture
def measured():
    """What was measured of the FP32 file; there were too few samples for a p99."""
    return {
        "accuracy": 0.871,
        "interval": [0.83, 0.9],
        "p50_ms": 1.234,
        "p90_ms": 1.5,
        "p99_ms": None,
        "device": "ab12",
    }


@pytest.fixture
def cascade_path():
    """The networks from the teacher to the student of the bundle."""
    return ["teacher", "assistant", "wide"]


@pytest.fixture
def write(class_names, cascade_path, measured):
    """Writes a bundle with the FP32 file; keyword arguments replace those of `write_bundle`."""

    def write(folder, fp32, **more):
        fields = {
            "name": "motion",
            "classes": class_names,
            "sampling": Sampling(4),
            "preprocess": Preprocessing(16, 16, "crop", (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
            "models": [ModelFile(fp32, "fp32", "wide", cascade_path, parity={"agreement": 1.0}, measured=measured)],
            "licences": {"data": "CC-BY-4.0", "weights": "Apache-2.0"},
            "created_by": "skd-edge 0.1.0",
        }
        return write_bundle(folder, **(fields | more))

    return write
