"""A benchmark of a whole bundle."""

import json

import pytest

from skd_bench.__main__ import main
from skd_bench.benchmark import targets
from skd_bench.benchmark.benchmark import _build_throttling_notes, benchmark_bundle
from skd_bench.benchmark.latency import MeasurementSettings
from skd_bench.benchmark.request import BenchmarkRequest
from skd_bench.benchmark.scenarios import LoadScenarios
from skd_bench.errors import UserError
from skd_bench.runtimes import why_runtime_unavailable
from skd_bench.runtimes.cuda import why_cuda_unavailable
from skd_bench.runtimes.tensorrt.builder import BuildOptions, build_engine
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


def test_throttling_during_the_benchmark_is_a_note():
    state = {"load": None, "temperature_c": None, "throttle": {"events": 3, "now": None}, "gpu_state": None}
    gpu = {"temperature_c": 90.0, "clock_mhz": 900.0, "power_w": 300.0}
    hot = state | {
        "throttle": {"events": 5, "now": None},
        "gpu_state": [gpu | {"throttle": ["idle"]}, gpu | {"throttle": ["idle", "software thermal slowdown"]}],
    }
    assert _build_throttling_notes(state, state) == []
    assert _build_throttling_notes(state, hot) == [
        "the machine throttled 2 times during the benchmark; measure again when it is cool",
        "GPU 1 ran at reduced clocks at the end of the benchmark: software thermal slowdown",
    ]


def test_an_engine_that_cannot_take_a_batch_does_not_end_the_benchmark(tmp_path, bundle, network, tensorrt_double):
    """An engine for batches up to 4, beside files that take any batch; it was an error of the whole benchmark."""
    options = BuildOptions(batches=(1, 1, 4))
    build_engine(network(tmp_path / "net.onnx"), tmp_path / "net.engine", runtime="tensorrt", options=options)
    settings = MeasurementSettings(processes=1, queries=20, seconds=0.0, warm_seconds=0.01)
    extra = LoadScenarios(["multi-stream", "offline"], [1, 2, 16], None, [])
    result = benchmark_bundle(BenchmarkRequest(bundle, settings, extra, engines=[tmp_path / "net.engine"]))
    rows = {row["name"]: row for row in result["artefacts"]}
    engine = rows["net.engine @ tensorrt"]
    assert [b["batch"] for b in engine["batches"]] == [1, 2]
    assert list(engine["scenarios"]) == ["offline"]
    assert engine["precision"] == "fp32"
    assert engine["facts"]["layers"]
    other = rows[next(name for name in rows if name.endswith(".onnx"))]
    assert [b["batch"] for b in other["batches"]] == [1, 2, 16]
    assert set(other["scenarios"]) == {"multi-stream", "offline"}


def test_an_engine_that_fails_while_it_is_measured_is_not_run(tmp_path, bundle, network, tensorrt_double):
    build_engine(network(tmp_path / "net.onnx"), tmp_path / "net.engine", runtime="tensorrt")
    tensorrt_double("lost-later")
    settings = MeasurementSettings(processes=1, queries=20, seconds=0.0, warm_seconds=0.01)
    result = benchmark_bundle(BenchmarkRequest(bundle, settings, engines=[tmp_path / "net.engine"]))
    assert all(row["file"].endswith(".onnx") for row in result["artefacts"])
    failed = {row["name"]: row["reason"] for row in result["not_run"]}
    assert "unspecified launch failure" in failed["net.engine @ tensorrt"]
    assert "unspecified launch failure" in failed["net.engine @ tensorrt-nograph"]
