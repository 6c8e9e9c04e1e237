import json
import tempfile

import numpy as np
import pytest

from skd_bench.benchmark.results import load_samples, save_result
from skd_bench.errors import UsageError, UserError
from skd_bench.files import sha256_file
from skd_bench.remote.bench_command import bench_command
from skd_bench.remote.device_lock import DeviceLock
from skd_bench.runtimes import registered_runtimes

SAMPLES = {"a.onnx": [[1.0, 2.0], [3.0]], "../b [batch 4]": [[0.5, 0.25]]}


def test_every_sample_is_kept_and_found_again(tmp_path):
    path = save_result({"schema": 2, "samples_ms": SAMPLES}, tmp_path / "ergebnis ü.json")
    data = json.loads(path.read_text("utf-8"))
    assert "samples_ms" not in data
    assert data["samples"]["sha256"] == sha256_file(tmp_path / data["samples"]["file"])
    found = load_samples(path)
    assert {name: [p.tolist() for p in processes] for name, processes in found.items()} == SAMPLES
    assert all(p.dtype == np.float64 for processes in found.values() for p in processes)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ergebnis ü.json", "ergebnis ü.npz"]


def test_a_place_that_cannot_be_is_told_before_anything_is_measured(tmp_path, bundle):
    with pytest.raises(UsageError, match=r"\.json"):
        save_result({"samples_ms": {}}, tmp_path / "x.txt")
    with pytest.raises(UsageError, match=r"\.json"):
        bench_command(bundle, out=tmp_path / "x.csv", processes=50, queries=100_000, threads=1)


def test_a_dry_run_says_what_would_be_measured_and_measures_nothing(bundle):
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
    assert f"{3 * 50 * 10} clips a row" in text


def test_wrong_options_are_told(bundle, tmp_path):
    settings = {"processes": 1, "queries": 20, "threads": 1}
    with pytest.raises(UsageError, match="such as 1,2,8"):
        bench_command(bundle, batches="one", **settings)
    with pytest.raises(UsageError, match="no runtime 'abacus'; there are: ort,"):
        bench_command(bundle, runtimes=("abacus",), **settings)
    with pytest.raises(UsageError, match="no scenario 'server'"):
        bench_command(bundle, scenarios=("server",), **settings)
    with pytest.raises(UsageError, match="build it there"):
        bench_command(bundle, engines=(tmp_path / "x.engine",), host="somebody@board", **settings)
    with pytest.raises(UserError, match="no bundle"):
        bench_command(tmp_path, dry_run=True, **settings)


def test_two_benches_at_once_are_refused_with_who(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with DeviceLock("ada@engine"), pytest.raises(UserError, match="another bench runs on this device, started by ada@"):
        bench_command(bundle, processes=1, queries=20, threads=1)
    result = bench_command(bundle, processes=1, queries=20, threads=1, out=tmp_path / "one.json")
    assert "samples_ms" not in result
    assert [len(p) for p in load_samples(tmp_path / "one.json")["artefacts/other.onnx"]] == [20]
