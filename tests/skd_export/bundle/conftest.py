"""A function that writes a small bundle."""

import pytest

from skd_bench.video.types import Preprocessing, Sampling
from skd_export.bundle.writer import ModelFile, write_bundle

CLASSES = ["left", "right", "up", "down", "still"]
MEASURED = {
    "accuracy": 0.871,
    "interval": [0.83, 0.9],
    "p50_ms": 1.234,
    "p90_ms": 1.5,
    "p99_ms": None,
    "device": "ab12",
}
PATH = ["teacher", "assistant", "wide"]


@pytest.fixture
def write():
    """Writes a bundle with the FP32 file; keyword arguments replace those of `write_bundle`."""

    def write(folder, fp32, **more):
        fields = {
            "name": "motion",
            "classes": CLASSES,
            "sampling": Sampling(4),
            "preprocess": Preprocessing(16, 16, "crop", (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
            "models": [ModelFile(fp32, "fp32", "wide", PATH, parity={"agreement": 1.0}, measured=MEASURED)],
            "licences": {"data": "CC-BY-4.0", "weights": "Apache-2.0"},
            "created_by": "skd-edge 0.1.0",
        }
        return write_bundle(folder, **(fields | more))

    return write
