"""The rows of a benchmark, and the reasons for rows that cannot run."""

from pathlib import Path

import pytest

from skd_bench.benchmark import targets
from skd_bench.benchmark.targets import find_benchmark_targets
from skd_bench.bundle.manifest import Manifest
from skd_bench.errors import UserError
from skd_bench.runtimes import find_runtime
from skd_bench.runtimes.base import make_random_clip


def test_each_file_of_a_bundle_is_a_row_on_its_runtime(bundle):
    rows, not_run = find_benchmark_targets(bundle, Manifest.load(bundle), ["ort"], [], threads=1)
    assert [row.latency_target.name for row in rows] == ["artefacts/fp32.onnx", "artefacts/other.onnx"]
    assert [row.file_info["default"] for row in rows] == [True, False]
    assert not_run == []
    assert {row.runtime_info["runtime"] for row in rows} == {"ort"}
    data = rows[0].file_info
    assert (data["file"], data["bytes"]) == ("artefacts/fp32.onnx", (bundle / "artefacts/fp32.onnx").stat().st_size)


def test_rows_that_cannot_run_are_listed_with_their_reason(bundle):
    runtimes = ["abacus", "litert", "tensorrt-rtx"]
    rows, not_run = find_benchmark_targets(bundle, Manifest.load(bundle), runtimes, [], threads=1)
    assert len(rows) == 2
    names = [f"artefacts/{file}.onnx @ {runtime}" for file in ("fp32", "other") for runtime in runtimes]
    assert [row["name"] for row in not_run] == names
    assert "unknown runtime 'abacus'" in not_run[0]["reason"]
    assert all(row["reason"] for row in not_run)


def test_an_engine_without_metadata_stops_the_benchmark(bundle, tmp_path):
    with pytest.raises(UserError, match=r"net\.engine has no metadata file"):
        find_benchmark_targets(bundle, Manifest.load(bundle), [], [tmp_path / "net.engine"], threads=1)


def test_the_default_file_must_run(bundle):
    (bundle / "artefacts/fp32.onnx").write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"fp32\.onnx"):
        find_benchmark_targets(bundle, Manifest.load(bundle), [], [], threads=1)


def test_a_breakdown_on_the_cpu_has_no_transfers(bundle, monkeypatch):
    monkeypatch.setattr(targets, "_REPEATS", 3)
    [row, _], _ = find_benchmark_targets(bundle, Manifest.load(bundle), [], [], threads=1)
    parts = row.measure_breakdown(threads=1)
    assert parts.keys() == {"to_device_ms", "compute_ms", "from_device_ms", "post_ms"}
    assert (parts["to_device_ms"], parts["from_device_ms"]) == (None, None)
    assert parts["compute_ms"] > 0


def test_a_session_is_closed_at_the_end_of_its_block(bundle):
    [row, _], _ = find_benchmark_targets(bundle, Manifest.load(bundle), [], [], threads=1)
    with row.open_session(threads=1) as session:
        clip = make_random_clip(session)
        assert session.run(clip).shape == (1, 3)
    with pytest.raises(UserError, match="closed"):
        session.run(clip[:1].copy())
    assert find_runtime("ort").load(Path(row.latency_target.path), threads=1).input == session.input
