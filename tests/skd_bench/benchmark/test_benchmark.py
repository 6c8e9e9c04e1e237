"""A benchmark of a whole bundle."""

import json

import pytest

from skd_bench.__main__ import main
from skd_bench.benchmark import targets
from skd_bench.benchmark.benchmark import benchmark_bundle
from skd_bench.benchmark.latency import MeasurementSettings
from skd_bench.benchmark.request import BenchmarkRequest
from skd_bench.benchmark.scenarios import LoadScenarios
from skd_bench.errors import UserError
from skd_bench.runtimes import why_runtime_unavailable
from skd_bench.runtimes.cuda import why_cuda_unavailable
from skd_bench.runtimes.tensorrt.builder import build_engine
from skd_bench.runtimes.tensorrt.library import find_flavour, find_installed_modules
from skd_bench.text_tables import format_benchmark_table


def test_a_bundle_and_its_sample_clips_are_measured(bundle_with_samples):
    result = benchmark_bundle(BenchmarkRequest(bundle_with_samples, MeasurementSettings(processes=2, queries=40)))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    [row] = result["artefacts"]
    assert row["file"] == "artefacts/fp32.onnx"
    assert row["default"] is True
    assert row["latency"]["n"] == 80
    assert row["latency"]["p90_ms"] >= row["latency"]["p50_ms"] > 0
    assert row["latency"]["p99_ms"] is None
    assert row["facts"]["optimisation"] == "ORT_ENABLE_ALL"
    assert row["same_device"] is False
    assert "reason" in row["energy"] or row["energy"]["joules_per_clip"] is not None
    assert result["clips"]["samples"] == 2
    assert result["clips"]["decode_ms"] > result["clips"]["preprocess_ms"] > 0
    assert result["contract"] == {"frames": 4, "height": 16, "width": 16, "batch": 1}
    text = format_benchmark_table(result)
    assert "* artefacts/fp32.onnx" in text
    assert "n/a" in text
    assert "decoding" in text


def test_a_changed_bundle_is_not_measured(bundle, capsys):
    path = bundle / "artefacts" / "other.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match=r"other\.onnx has other bytes"):
        benchmark_bundle(BenchmarkRequest(bundle, MeasurementSettings(processes=1, queries=5)))
    assert main([str(bundle)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1


def test_further_runtimes_and_loads_are_measured_and_rows_that_cannot_run_are_listed(
    bundle_with_samples, tmp_path, monkeypatch
):
    if why_runtime_unavailable("openvino"):
        pytest.skip("openvino is not installed here")
    extra = LoadScenarios(["multi-stream"], [1, 3], 1e6, ["openvino", "tensorrt-rtx", "tensorrt"])
    monkeypatch.setattr(targets, "_REPEATS", 3)
    engine = tmp_path / "net.engine"
    if find_installed_modules(find_flavour("tensorrt-rtx")) and why_cuda_unavailable():
        build_engine(
            next(bundle_with_samples.glob("artefacts/*.onnx")), engine, runtime="tensorrt-rtx", sms=[86]
        )  # a GPU could run it
    engines = [engine] if engine.exists() else []
    settings = MeasurementSettings(processes=1, queries=70)
    result = benchmark_bundle(BenchmarkRequest(bundle_with_samples, settings, extra, engines))
    own, other = result["artefacts"]
    assert (own["name"], other["name"]) == ("artefacts/fp32.onnx", "artefacts/fp32.onnx @ openvino")
    assert (own["default"], other["default"]) == (True, False)
    assert other["facts"]["runtime"] == "openvino"
    assert other["claimed"] == {}
    for row in (own, other):
        assert [r["batch"] for r in row["batches"]] == [1, 3]
        assert row["scenarios"]["multi-stream"]["clips_per_query"] == 8
        assert row["bound"]["batch"] in (1, 3)
        assert row["split"]["compute_ms"] > 0 < row["split"]["post_ms"]
        assert row["split"]["to_device_ms"] is None
    assert len(result["samples_ms"]) == 2 * 4
    assert all(len(s) == 70 for processes in result["samples_ms"].values() for s in processes)
    reasons = {one["runtime"]: one["reason"] for one in result["not_run"]}
    assert {"tensorrt-rtx", "tensorrt"} <= set(reasons)
    assert len(result["not_run"]) == 2 + 2 * len(engines)
    if why_cuda_unavailable():
        assert all("not installed" in why or "no NVIDIA driver" in why for why in reasons.values())
    text = format_benchmark_table(result)
    assert "not run: artefacts/fp32.onnx @ tensorrt-rtx" in text
    assert "multi-stream: p99_ms n/a" in text
    assert "within p90_ms <= 1000000" in text


def test_logits_that_are_not_finite_are_reported(broken_bundle):
    result = benchmark_bundle(BenchmarkRequest(broken_bundle, MeasurementSettings(processes=1, queries=12)))
    assert any("the logits of random clips contain NaN or an infinity" in note for note in result["notes"])
    assert any("0.mp4" in note and "NaN" in note for note in result["notes"])
    assert result["artefacts"][0]["latency"]["finite"] is False
