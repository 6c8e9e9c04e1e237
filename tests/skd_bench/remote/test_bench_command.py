"""The bench command: the plan of a dry run, wrong options, and the lock of this machine."""

import tempfile

import pytest

from skd_bench.benchmark.latency import MeasurementSettings
from skd_bench.benchmark.request import BenchmarkRequest
from skd_bench.benchmark.results import load_samples
from skd_bench.benchmark.scenarios import LoadScenarios
from skd_bench.errors import UsageError, UserError
from skd_bench.remote.bench_command import bench_command, parse_batches
from skd_bench.remote.device_lock import DeviceLock
from skd_bench.remote.runner import SshTarget
from skd_bench.runtimes import registered_runtimes


def test_a_dry_run_returns_the_plan_and_measures_nothing(bundle):
    extra = LoadScenarios(["offline"], [1, 8], None, ["openvino", "ort-tensorrt"])
    text = bench_command(BenchmarkRequest(bundle, MeasurementSettings(1, 3, 50), extra), dry_run=True)
    assert "other.onnx @ openvino" in text
    if reason := registered_runtimes()["ort-tensorrt"].why_unavailable():
        assert f"other.onnx @ ort-tensorrt: will be listed as not run ({reason})" in text
    assert "batch 1, batch 8, then offline" in text
    assert f"{3 * 50 * 10} clips per row" in text


def test_wrong_options_are_refused(bundle, tmp_path):
    with pytest.raises(UsageError, match="such as 1,2,8"):
        parse_batches("one")
    with pytest.raises(UsageError, match="unknown runtime 'abacus'; choose from ort,"):
        bench_command(BenchmarkRequest(bundle, extra=LoadScenarios(runtimes=["abacus"])))
    with pytest.raises(UsageError, match="unknown scenario 'server'"):
        bench_command(BenchmarkRequest(bundle, extra=LoadScenarios(["server"])))
    with pytest.raises(UsageError, match="build it on the device"):
        bench_command(BenchmarkRequest(bundle, engines=[tmp_path / "x.engine"]), ssh=SshTarget("somebody@board"))
    with pytest.raises(UserError, match="no bundle"):
        bench_command(BenchmarkRequest(tmp_path), dry_run=True)


def test_two_benchmarks_at_once_are_refused_with_the_owner(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    request = BenchmarkRequest(bundle, MeasurementSettings(1, 1, 20))
    with (
        DeviceLock("ada@engine"),
        pytest.raises(UserError, match="another benchmark runs on this device, started by ada@"),
    ):
        bench_command(request)
    result = bench_command(request, out=tmp_path / "one.json")
    assert "samples_ms" not in result
    assert [len(p) for p in load_samples(tmp_path / "one.json")["artefacts/other.onnx"]] == [20]


def test_batch_sizes_are_parsed():
    assert parse_batches("1,2, 8") == [1, 2, 8]
    assert parse_batches("") == []
