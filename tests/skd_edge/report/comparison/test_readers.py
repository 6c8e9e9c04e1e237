"""Reading the sources of a comparison: rows from every kind, and errors for anything else."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from skd_bench.benchmark.results import save_result
from skd_bench.errors import UserError
from skd_bench.video.types import Preprocessing, Sampling
from skd_edge.report.comparison.readers import read_source
from skd_export.bundle.writer import ModelFile, write_bundle


def run_folder(path: Path, raw: dict[str, Any]) -> Path:
    path.mkdir()
    (path / "report.json").write_text(json.dumps(raw))
    return path


def test_runs_and_benchmarks_have_the_same_names_and_metrics(
    tmp_path: Path, sample: ModuleType, bench_json: Any
) -> None:
    run = read_source(run_folder(tmp_path / "run", sample.full_result()), "run")
    assert len(run.rows) == 8  # the trained ones
    assert run.rows[0].metrics.keys() >= {"accuracy", "p50_ms", "p90_ms", "bytes"}
    assert "broad" not in {row.student for row in run.rows}
    assert run.samples
    assert run.sweeps
    [row] = read_source(bench_json(tmp_path / "b.json", 4.0), "b").rows
    assert row.name == "teacher>small fp32"
    assert row.metrics["p50_ms"] == 4
    assert row.metrics["accuracy"] == 0.8
    assert "p99_ms" not in row.metrics
    assert row.intervals["p90_ms"] == (4.4, 5.2)


def test_a_benchmark_result_has_samples_and_sweeps(tmp_path: Path, bench_json: Any) -> None:
    data = json.loads(bench_json(tmp_path / "b.json", 4.0).read_text())
    own = data["artefacts"][0] | {"name": "artefacts/small.fp32.onnx"}
    other = own | {"name": "artefacts/small.fp32.onnx @ torch", "runtime": "torch", "batches": []}
    samples = {a["name"]: [[4.0, 4.1], [4.2]] for a in (own, other)} | {"artefacts/small.fp32.onnx [batch 2]": [[8.0]]}
    path = save_result(data | {"artefacts": [own, other], "samples_ms": samples}, tmp_path / "saved.json")
    read = read_source(path, "saved")
    assert [row.name for row in read.rows] == ["teacher>small fp32", "teacher>small fp32 @ torch"]
    assert read.samples == {row.name: [4.0, 4.1, 4.2] for row in read.rows}
    assert [p.batch for p in read.sweeps["teacher>small fp32"]] == [1, 2]
    path.with_suffix(".npz").unlink()
    assert read_source(path, "saved").samples == {}


def test_bundles_and_accuracies_are_sources(tmp_path: Path, bench_json: Any) -> None:
    data = json.loads(bench_json(tmp_path / "b.json", 4.0).read_text())
    row = {
        "file": "f",
        "default": True,
        "precision": "int8",
        "student": "small",
        "path": ["teacher", "small"],
        "views": 3,
        "accuracy": {"top1": {"value": 0.8, "low": 0.7, "high": 0.9}, "macro_f1": 0.79, "ece": 0.1},
        "against_fp32": {"agreement": 0.99},
        "cost": {"decode_ms": 3.0, "preprocess_ms": 0.1, "infer_ms": 9.0},
    }
    path = tmp_path / "accuracy.json"
    path.write_text(json.dumps({"kind": "accuracy", "device": data["device"], "rows": [row]}))
    [read] = read_source(path, "a").rows
    assert read.name == "teacher>small int8, 3 views"
    assert read.metrics["agreement"] == 0.99
    assert read.intervals == {"accuracy": (0.7, 0.9)}
    model = tmp_path / "small.onnx"
    model.write_bytes(b"not run here")
    measured = {"accuracy": 0.8, "interval": [0.7, 0.9], "p50_ms": 4.0, "p50_interval": [3.9, 4.1], "device": "abc"}
    write_bundle(
        tmp_path / "bundle",
        name="n",
        classes=["a", "b"],
        sampling=Sampling(4),
        preprocess=Preprocessing(8, 8, "crop", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
        models=[ModelFile(model, "fp32", "small", ["teacher", "small"], parity={"agreement": 1.0}, measured=measured)],
        licences={},
        created_by="test",
        provenance={},
    )
    [row_of_bundle] = read_source(tmp_path / "bundle", "bundle").rows
    assert row_of_bundle.name == "teacher>small fp32"
    assert row_of_bundle.device_id == "abc"
    assert row_of_bundle.metrics == {"accuracy": 0.8, "p50_ms": 4.0, "bytes": 12.0, "agreement": 1.0}
    assert row_of_bundle.intervals == {"accuracy": (0.7, 0.9), "p50_ms": (3.9, 4.1)}


def test_a_path_without_measurements_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "folder").mkdir()
    for name, message in (
        ("list", "a list"),
        ("other", "no measurements"),
        ("broken", "is not JSON"),
        ("none", "cannot read"),
    ):
        with pytest.raises(UserError, match=message):
            read_source(tmp_path / f"{name}.json", "x")
    with pytest.raises(UserError, match="neither a bundle"):
        read_source(tmp_path / "folder", "x")
    newer = tmp_path / "newer.json"
    newer.write_text(json.dumps({"kind": "comparison", "schema": 99}))
    with pytest.raises(UserError, match="schema 99"):
        read_source(newer, "x")
