"""The verified export: files are compared with their network, and INT8 files stay within their bounds."""

import pytest

from skd_bench.errors import UserError
from skd_export.analysis.parity import ParityBounds, compute_torch_logits
from skd_export.exporter import read_metadata
from skd_export.quantization.sensitivity import compute_onnx_logits
from skd_export.verified_export import Calibration, ExportTarget, FileVerifier, export_verified

CLASSES = ["left", "right", "up", "down", "still"]


@pytest.fixture
def target(tmp_path):
    return ExportTarget(tmp_path, (4, 16, 16), CLASSES)


@pytest.fixture
def make_verifier(network, clips):
    """A verifier on 32 held-out clips, labelled with the network's own predictions, and its calls for the reference."""
    held_out, calls = clips(32, 7), []

    def compute_reference():
        calls.append(1)
        return compute_torch_logits(network, [held_out])

    def make(bounds=None, labelled=True):
        labels = compute_torch_logits(network, [held_out]).argmax(1) if labelled else None
        logits_of = lambda path, runtime: compute_onnx_logits(path, held_out)  # noqa: E731
        return FileVerifier(compute_reference, logits_of, labels, bounds or ParityBounds()), calls

    return make


def test_a_file_within_its_bounds_has_no_reason(network, batches, target, make_verifier):
    verifier, calls = make_verifier()
    paths = export_verified(network, ("fp32", "int8"), target, Calibration(batches, "key"), verifier)
    fp32 = verifier.verify(paths["fp32"], "fp32")
    assert (fp32.rejection_reason, fp32.runtime, fp32.precision) == (None, "ort", "fp32")
    assert fp32.logits.shape == (32, 5)
    assert fp32.parity["agreement"] == 1
    assert fp32.parity["accuracy_drop"] == 0
    assert calls == [1]  # the reference is computed once for all files


def test_a_file_outside_its_bounds_has_a_reason(network, batches, target, make_verifier):
    verifier, _ = make_verifier(ParityBounds(fp32_relative=0.0))
    path = export_verified(network, ("fp32",), target, Calibration(batches, "key"), verifier)["fp32"]
    found = verifier.verify(path, "fp32")
    assert found.rejection_reason.startswith("the FP32 file's logits differ by")
    assert verifier.find_violation(path, "fp32") == found.rejection_reason


def test_without_labels_there_is_no_accuracy_drop(network, batches, target, make_verifier):
    verifier, _ = make_verifier(labelled=False)
    path = export_verified(network, ("fp32",), target, Calibration(batches, "key"), verifier)["fp32"]
    assert verifier.verify(path, "fp32").parity["accuracy_drop"] is None


def test_layers_stay_in_fp32_only_if_a_verifier_requires_it(network, batches, target, make_verifier):
    strict, _ = make_verifier(ParityBounds(int8_agreement=1.01, int8_drop=-200.0))  # no file can meet these bounds
    path = export_verified(network, ("int8",), target, Calibration(batches, "strict"), strict)["int8"]
    assert len(read_metadata(path)["tried"]) == 3  # all layers, then without one and two of five
    path = export_verified(network, ("int8",), target, Calibration(batches, "without"), None)["int8"]
    assert read_metadata(path)["tried"] == []


def test_int8_needs_calibration_clips(network, target):
    with pytest.raises(UserError, match="there are none"):
        export_verified(network, ("int8",), target, Calibration(lambda: [], "key"), None)
