"""The bench command: the plan of a dry run, wrong options, and the lock of this machine."""

import tempfile

import pytest

from skd_bench.benchmark.results import load_samples
from skd_bench.errors import UsageError, UserError
from skd_bench.remote.bench_command import bench_command
from skd_bench.remote.device_lock import DeviceLock
from skd_bench.runtimes import registered_runtimes


def test_a_dry_run_returns_the_plan_and_measures_nothing(bundle):
    text = bench_command(
        bundle,
        dry_run=True,
        runtimes=("openvino", "ort-tensorrt"),
        batches="1,8",
        scenarios=("offline",),
        processes=3,
        queries=50,
        threads=1,
    )
    assert "other.onnx @ openvino" in text
    if reason := registered_runtimes()["ort-tensorrt"].why_unavailable():
        assert f"other.onnx @ ort-tensorrt: will be listed as not run ({reason})" in text
    assert "batch 1, batch 8, then offline" in text
    assert f"{3 * 50 * 10} clips per row" in text


def test_wrong_options_are_refused(bundle, tmp_path):
    settings = {"processes": 1, "queries": 20, "threads": 1}
    with pytest.raises(UsageError, match="such as 1,2,8"):
        bench_command(bundle, batches="one", **settings)
    with pytest.raises(UsageError, match="unknown runtime 'abacus'; choose from ort,"):
        bench_command(bundle, runtimes=("abacus",), **settings)
    with pytest.raises(UsageError, match="unknown scenario 'server'"):
        bench_command(bundle, scenarios=("server",), **settings)
    with pytest.raises(UsageError, match="build it on the device"):
        bench_command(bundle, engines=(tmp_path / "x.engine",), host="somebody@board", **settings)
    with pytest.raises(UserError, match="no bundle"):
        bench_command(tmp_path, dry_run=True, **settings)


def test_two_benchmarks_at_once_are_refused_with_the_owner(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with (
        DeviceLock("ada@engine"),
        pytest.raises(UserError, match="another benchmark runs on this device, started by ada@"),
    ):
        bench_command(bundle, processes=1, queries=20, threads=1)
    result = bench_command(bundle, processes=1, queries=20, threads=1, out=tmp_path / "one.json")
    assert "samples_ms" not in result
    assert [len(p) for p in load_samples(tmp_path / "one.json")["artefacts/other.onnx"]] == [20]
