"""Sensitivity of layers to INT8, and how many of them stay in FP32."""

import numpy as np
import pytest

from skd_export.quantization.calibration import CalibrationRanges
from skd_export.quantization.quantize import count_executed_operators, quantize_for_ort, quantize_for_tensorrt
from skd_export.quantization.sensitivity import (
    compute_onnx_logits,
    measure_layer_sensitivities,
    quantize_within_bounds,
)


@pytest.fixture
def ranges(fp32, batches):
    return CalibrationRanges(fp32, batches())


@pytest.mark.parametrize("quantize", [quantize_for_ort, quantize_for_tensorrt])
def test_every_layer_is_measured_and_the_most_sensitive_comes_first(fp32, ranges, quantize):
    found = measure_layer_sensitivities(fp32, ranges, quantize)
    assert sorted((s["layer"], s["op"]) for s in found) == sorted(ranges.layers)
    errors = [s["error"] for s in found]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] > 0
    assert all(0 <= s["flips"] <= 1 for s in found)


def test_a_single_quantised_layer_has_a_smaller_error_than_all(fp32, ranges, tmp_path):
    quantize_for_ort(ranges, tmp_path / "all.onnx")
    reference = compute_onnx_logits(fp32, ranges.sample_clips)
    difference = np.abs(compute_onnx_logits(tmp_path / "all.onnx", ranges.sample_clips) - reference).mean()
    least = measure_layer_sensitivities(fp32, ranges, quantize_for_ort)[-1]
    assert least["error"] < difference / reference.std()


def test_a_file_within_its_bounds_has_no_layer_in_fp32(fp32, ranges, tmp_path):
    found = quantize_within_bounds(fp32, tmp_path / "x.onnx", ranges, quantize_for_ort, lambda path: None)
    assert (found["excluded"], found["sensitivity"], found["tried"]) == ([], [], [])
    assert count_executed_operators(tmp_path / "x.onnx")["QLinearConv"] == 4


def test_the_most_sensitive_layer_stays_in_fp32_first(fp32, ranges, tmp_path):
    # The quantiser changes the ranges in place, so quantise all layers first, as `quantize_within_bounds` does.
    quantize_for_ort(ranges, tmp_path / "all.onnx")
    order = [s["layer"] for s in measure_layer_sensitivities(fp32, ranges, quantize_for_ort)]
    verdicts = iter(["too far", None])
    found = quantize_within_bounds(fp32, tmp_path / "x.onnx", ranges, quantize_for_ort, lambda path: next(verdicts))
    assert found["excluded"] == order[:1]
    assert found["tried"] == ["too far"]
    assert [s["layer"] for s in found["sensitivity"]] == order
    excluded_alone = tmp_path / "excluded.onnx"
    quantize_for_ort(ranges, excluded_alone, exclude=order[:1])
    assert (tmp_path / "x.onnx").read_bytes() == excluded_alone.read_bytes()


def test_logits_are_the_same_in_any_batches(fp32, clips):
    every = clips(35, 4)  # more than two batches
    whole = compute_onnx_logits(fp32, every)
    assert whole.shape == (35, 5)
    np.testing.assert_allclose(whole[20:21], compute_onnx_logits(fp32, every[20:21]), rtol=1e-4, atol=1e-4)
