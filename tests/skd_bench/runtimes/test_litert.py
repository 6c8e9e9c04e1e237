"""A bundle with a .tflite file beside its ONNX file, with and without LiteRT."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skd_bench.benchmark.targets import find_benchmark_targets
from skd_bench.bundle.manifest import Artefact, Manifest, resolve_bundle_path
from skd_bench.files import sha256_file
from skd_bench.inference.predict import predict
from skd_bench.runtimes import find_runtime, registered_runtimes, why_runtime_unavailable
from skd_bench.runtimes.litert import LiteRtRuntime

linear_tflite = runpy.run_path(str(Path(__file__).parents[1] / "tiny_tflite.py"))["linear_tflite"]
pytestmark = pytest.mark.skipif(
    registered_runtimes()["litert"].why_unavailable() is not None, reason="not installed is litert here"
)


@pytest.fixture
def with_tflite(bundle) -> Path:
    """The tiny bundle with a .tflite file of the same network, which takes one clip at a time."""
    manifest = Manifest.load(bundle)
    session = find_runtime("ort").load(resolve_bundle_path(bundle, manifest.default), threads=1)
    shape = tuple(n for n in session.input.shape[1:] if n)
    rows = np.eye(int(np.prod(shape)), dtype=np.float32).reshape(-1, *shape)
    bias = session.run(np.zeros((1, *shape), np.float32))[0]
    path = linear_tflite(bundle / "artefacts" / "one.tflite", session.run(rows) - bias, bias, shape, 1)
    made = Artefact("artefacts/one.tflite", sha256_file(path), path.stat().st_size, "fp32", "litert", "tiny", ["tiny"])
    replace(manifest, artefacts=[*manifest.artefacts, made]).save(bundle)
    return bundle


def test_it_predicts_like_the_onnx_file(with_tflite, tmp_path, video):
    path = video(tmp_path / "v.mp4", 200)
    [before], [after] = (predict(with_tflite, [path], artefact=file) for file in (None, "artefacts/one.tflite"))
    assert dict(after["top"]) == pytest.approx(dict(before["top"]), abs=1e-5)


def test_a_benchmark_measures_it_and_does_not_mix_formats(with_tflite):
    manifest = Manifest.load(with_tflite)
    rows, not_run = find_benchmark_targets(with_tflite, manifest, ["litert", "ort"], [], threads=1)
    [row] = [r for r in rows if r.file_info["runtime"] == "litert"]
    assert row.file_info["file"] == "artefacts/one.tflite"
    assert row.runtime_info["delegate"] == "XNNPACK"
    assert {r["name"] for r in not_run} >= {"artefacts/one.tflite @ ort", "artefacts/fp32.onnx @ litert"}
    assert all("LiteRT runs .tflite files" in r["reason"] for r in not_run)


def test_a_fixed_batch_size_is_part_of_the_input(with_tflite):
    session = find_runtime("litert").load(with_tflite / "artefacts/one.tflite", threads=1)
    assert session.input.shape[0] == 1
    x = np.zeros((2, *(n or 1 for n in session.input.shape[1:])), np.float32)
    with pytest.raises(Exception, match="not float32"):
        session.run(x)


def test_where_litert_is_missing_the_other_files_are_measured(with_tflite, monkeypatch):
    monkeypatch.setattr(LiteRtRuntime, "why_unavailable", lambda self: "ai-edge-litert is not installed")
    manifest = Manifest.load(with_tflite)
    rows, not_run = find_benchmark_targets(with_tflite, manifest, [], [], threads=1)
    assert {r.file_info["runtime"] for r in rows} == {"ort"}
    assert [(r["name"], r["reason"]) for r in not_run] == [("artefacts/one.tflite", "ai-edge-litert is not installed")]
    assert why_runtime_unavailable("nothing") == "unknown runtime 'nothing'"


def test_a_truncated_file_is_refused(with_tflite, tmp_path):
    content = (with_tflite / "artefacts/one.tflite").read_bytes()
    for end in range(16, len(content), len(content) // 12):
        (tmp_path / "cut.tflite").write_bytes(content[:end])
        with pytest.raises(Exception, match=r"cut\.tflite"):
            find_runtime("litert").load(tmp_path / "cut.tflite", threads=1)


def test_a_session_names_its_delegate_and_why_not_the_others(with_tflite):
    session = LiteRtRuntime().load(with_tflite / "artefacts" / "one.tflite", threads=1)
    info = session.runtime_info()
    assert info["delegate"] == "XNNPACK"
    assert set(info["other_delegates"]) == {"GPU", "NNAPI", "Edge TPU"}
    assert sum(info["operators"].values()) >= 1
    session.close()
