"""A small bundle of two files, for the tests of manifests and of their checks."""

import hashlib

import pytest

from skd_bench.bundle.manifest import SCHEMA, Artefact, Manifest
from skd_bench.video.types import Preprocessing, Sampling

# An ONNX file without nodes: the version, and a graph with the name "model".
MODEL, README = b"\x08\x0a\x3a\x07\x12\x05model", b"# hello\n"


def sha(data):
    return hashlib.sha256(data).hexdigest()


def make_example_manifest(**more):
    fields = {
        "schema": SCHEMA,
        "name": "motion",
        "created_by": "skd-edge 0.1.0",
        "classes": ["left", "right"],
        "contract": "float_clip",
        "sampling": Sampling(8, "dense", 2),
        "preprocess": Preprocessing(32, 48, "pad", (0.4, 0.5, 0.6), (0.2, 0.25, 1.0)),
        "default": "wide.fp32.onnx",
        "artefacts": [Artefact("wide.fp32.onnx", sha(MODEL), len(MODEL), "fp32", "ort", "wide", ["teacher", "wide"])],
        "documents": {"README.md": sha(README)},
    }
    return Manifest(**(fields | more))


@pytest.fixture(scope="session")
def example():
    """Makes a valid manifest, with other values where given: ``example(name="x")``."""
    return make_example_manifest


@pytest.fixture
def small_bundle(tmp_path):
    """The files of `example` in a folder; the model file is an empty graph."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "wide.fp32.onnx").write_bytes(MODEL)
    (folder / "README.md").write_bytes(README)
    make_example_manifest().save(folder)
    return folder
