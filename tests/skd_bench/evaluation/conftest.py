"""Bundles with recorded logits, and labelled videos."""

import json

import pytest

from skd_bench.bundle.manifest import Manifest
from skd_bench.evaluation.replay import ANSWERS_FILE, compute_sample_logits
from skd_bench.files import sha256_file, write_json

# "bright" and "green" have equal logits on greys, so which of the two is predicted is not tested.
GREYS = {"dark": (20, 40, 60, 240), "bright": (10,)}


def record_logits(bundle, logits):
    """Write ``answers.json`` and list it in the manifest."""
    write_json(bundle / ANSWERS_FILE, logits)
    path = bundle / "manifest.json"
    data = json.loads(path.read_text()) | {"documents": {ANSWERS_FILE: sha256_file(bundle / ANSWERS_FILE)}}
    path.write_text(json.dumps(data))


@pytest.fixture
def answered(bundle_with_samples):
    """A bundle with sample clips and the recorded logits of its model file."""
    record_logits(bundle_with_samples, compute_sample_logits(bundle_with_samples, Manifest.load(bundle_with_samples)))
    return bundle_with_samples


@pytest.fixture(name="record_logits")
def record_logits_fixture():
    """Writes recorded logits into a bundle: see `record_logits`."""
    return record_logits


@pytest.fixture
def clips(tmp_path, video):
    """Real videos in a folder for each class; the last dark one is bright, and the bright one dark."""
    root = tmp_path / "clips"
    for name, greys in GREYS.items():
        (root / name).mkdir(parents=True)
        for grey in greys:
            video(root / name / f"{grey}.mp4", grey)
    return root
