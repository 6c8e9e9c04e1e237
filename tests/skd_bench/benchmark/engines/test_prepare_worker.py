"""Preparing one file: an engine is compiled, and one clip is run."""

import pytest

from skd_bench.benchmark.engines.prepare_worker import prepare_file
from skd_bench.benchmark.worker_program import run_worker_program
from skd_bench.errors import UserError
from skd_bench.files import sha256_file


def job(path, runtime, folder):
    return {
        "path": str(path),
        "runtime": runtime,
        "threads": 1,
        "folder": str(folder),
        "workspace_mib": 64,
        "level": 2,
        "tf32": False,
    }


def test_a_file_for_a_runtime_that_compiles_becomes_an_engine(network, tmp_path, tensorrt_double):
    source = network(tmp_path / "net.onnx")
    prepared = prepare_file(job(source, "tensorrt", tmp_path / "engines"))
    facts = prepared["facts"]
    assert facts["engine_sha256"] == sha256_file(prepared["path"])
    assert facts["version"] == "10.13.3+double"
    assert facts["layers"]  # an engine describes its layers only after a query
    assert facts["batches"] == [1, 1, 1]
    assert prepare_file(job(source, "tensorrt", tmp_path / "engines"))["path"] == prepared["path"]


def test_any_other_file_stays_as_it_is(network, tmp_path):
    source = network(tmp_path / "net.onnx")
    prepared = prepare_file(job(source, "ort", tmp_path / "engines"))
    assert prepared["path"] == str(source)
    assert prepared["facts"]["provider"] == "CPUExecutionProvider"
    assert not (tmp_path / "engines").exists()


def test_a_compiler_without_memory_is_one_sentence(network, tmp_path, tensorrt_double, capsys):
    import json

    tensorrt_double("build-memory")
    source = network(tmp_path / "net.onnx")
    with pytest.raises(UserError, match=r"cannot build .*net\.onnx for SM86: Requested amount of GPU memory"):
        prepare_file(job(source, "tensorrt", tmp_path / "engines"))
    (tmp_path / "job.json").write_text(json.dumps(job(source, "tensorrt", tmp_path / "engines")))
    assert run_worker_program(prepare_file, [str(tmp_path / "job.json"), str(tmp_path / "result.json")]) == 1
    assert "Requested amount of GPU memory" in capsys.readouterr().err
    assert not (tmp_path / "result.json").exists()
