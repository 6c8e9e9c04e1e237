"""A benchmark result as a JSON file and an archive of samples."""

import json

import numpy as np
import pytest

from skd_bench.benchmark.request import BenchmarkRequest
from skd_bench.benchmark.results import load_samples, save_result
from skd_bench.errors import UsageError
from skd_bench.files import sha256_file
from skd_bench.remote.bench_command import bench_command

SAMPLES = {"a.onnx": [[1.0, 2.0], [3.0]], "../b [batch 4]": [[0.5, 0.25]]}


def test_all_samples_are_written_and_read_again(tmp_path):
    path = save_result({"schema": 2, "samples_ms": SAMPLES}, tmp_path / "ergebnis ü.json")
    data = json.loads(path.read_text("utf-8"))
    assert "samples_ms" not in data
    assert data["samples"]["sha256"] == sha256_file(tmp_path / data["samples"]["file"])
    found = load_samples(path)
    assert {name: [p.tolist() for p in processes] for name, processes in found.items()} == SAMPLES
    assert all(p.dtype == np.float64 for processes in found.values() for p in processes)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ergebnis ü.json", "ergebnis ü.npz"]


def test_a_wrong_output_path_is_refused_before_measuring(tmp_path, bundle):
    with pytest.raises(UsageError, match=r"\.json"):
        save_result({"samples_ms": {}}, tmp_path / "x.txt")
    with pytest.raises(UsageError, match=r"\.json"):
        bench_command(BenchmarkRequest(bundle), out=tmp_path / "x.csv")
