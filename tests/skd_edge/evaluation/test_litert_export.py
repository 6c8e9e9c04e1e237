"""A .tflite file is compared with its network; without the converter, the error says what to install."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skd_bench.errors import UserError
from skd_edge.evaluation.litert_export import VerifiedTflite, check_litert_available, write_tflite
from skd_export.analysis.parity import compute_parity
from skd_export.targets.litert import explain_missing_converter
from skd_export.verified_export import VerifiedFile


def test_a_missing_converter_is_reported_before_the_training():
    if explain_missing_converter() is None:
        check_litert_available()
    else:
        with pytest.raises(UserError, match=r"no \.tflite file can be written: .* not installed"):
            check_litert_available()


def test_a_file_agrees_with_its_network(scorer, network, tiny_clips, tmp_path, compute_network_logits):
    if reason := explain_missing_converter():
        pytest.skip(reason)
    tflite = write_tflite(scorer, network, tmp_path / "fp32.tflite", tiny_clips.val)
    assert tflite.file.rejection_reason is None
    np.testing.assert_allclose(tflite.file.logits, compute_network_logits(network, tiny_clips.val), atol=1e-3)


def test_the_entry_of_a_bundle_has_the_comparison_without_single_clips():
    logits = np.eye(3, dtype=np.float32)
    parity = compute_parity(logits, logits[::-1])
    assert parity["flips"]
    file = VerifiedFile(Path("fp32.tflite"), "fp32", "litert", logits, parity, None)
    entry = VerifiedTflite(file, {"batch": 1, "converter": "x 1"}).to_model_file("small", ("teacher", "small"))
    assert (entry.source, entry.path) == (Path("fp32.tflite"), ["teacher", "small"])
    assert (entry.precision, entry.runtime, entry.student) == ("fp32", "litert", "small")
    assert entry.options == {"batch": 1, "converter": "x 1"}
    assert set(parity) - set(entry.parity) == {"flips"}
