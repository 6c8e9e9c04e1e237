"""A bundle with engines, on the double of TensorRT: which are taken, what is written, and when one is loaded."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from skd_bench.bundle.manifest import ENGINES_SCHEMA, MANIFEST_FILE, SCHEMA, Manifest
from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.errors import UserError
from skd_bench.evaluation.engine_checks import find_engine_problems
from skd_bench.evaluation.verify_bundle import verify_bundle
from skd_bench.files import sha256_file
from skd_bench.inference.predict import TRUST_ENGINES, find_runnable_file, load_artefact
from skd_bench.runtimes import find_runtime
from skd_bench.runtimes.base import CompileOptions
from skd_bench.runtimes.tensorrt.engine_file import metadata_path, read_engine_metadata
from skd_edge.cli.main import run
from skd_export.bundle.engines import write_bundle_with_engines
from skd_export.bundle.writer import ModelFile


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An engine cache of this test's own, and no trust from outside."""
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(TRUST_ENGINES, raising=False)
    return tmp_path / "cache" / "engines"


@pytest.fixture
def engine(fp32, tmp_path, tensorrt_double):
    """The engine of the FP32 file, where a run stores it."""
    return find_runtime("tensorrt").compile(fp32, tmp_path / "run" / "engines" / "gpu-1", CompileOptions())


@pytest.fixture
def bundle(write, fp32, engine, tmp_path):
    """The bundle of that run: its file was measured as this engine."""
    facts = {"engine_sha256": sha256_file(engine), "version": "10.13.3+double"}
    model = ModelFile(fp32, "fp32", "wide", ["wide"], options={"engine": facts}, runtime="tensorrt")
    return write(tmp_path / "run" / "bundle", fp32, models=[model])


def test_the_measured_engine_is_in_the_copy_with_its_hash_gpu_and_versions(bundle, engine, fp32, tmp_path):
    other = find_runtime("tensorrt").compile(fp32, engine.parent, CompileOptions(tf32=True))  # never measured
    assert sha256_file(other) != sha256_file(engine)
    before = {p: p.read_bytes() for p in bundle.rglob("*") if p.is_file()}
    [added] = write_bundle_with_engines(bundle, tmp_path / "shipped")
    assert {p: p.read_bytes() for p in bundle.rglob("*") if p.is_file()} == before
    copy = Manifest.load(tmp_path / "shipped")
    [entry] = copy.find_artefact().engines
    assert entry == added
    metadata = read_engine_metadata(tmp_path / "shipped" / entry.file)
    assert (entry.sha256, entry.runtime, entry.version) == (sha256_file(engine), "tensorrt", "10.13.3+double")
    assert (entry.sms, entry.gpu) == (metadata.sms, metadata.gpu)
    assert "double of a GPU" in entry.gpu
    assert find_bundle_problems(tmp_path / "shipped", copy) == []
    assert verify_bundle(tmp_path / "shipped", strict=True).problems == []
    assert entry.file in (readme := (tmp_path / "shipped" / "README.md").read_text())
    assert TRUST_ENGINES in readme
    assert (copy.schema, Manifest.load(bundle).schema) == (ENGINES_SCHEMA, SCHEMA)
    assert "engines" not in json.loads((bundle / MANIFEST_FILE).read_text())["artefacts"][0]
    assert not any(os.access(p, os.X_OK) for p in (tmp_path / "shipped").rglob("*") if p.is_file())


def test_the_measured_engine_is_found_among_several_builds(bundle, engine, tmp_path):
    """Further builds of an engine have folders of their own (`bench.build.builds`)."""
    folder = engine.parent / "build-2"
    folder.mkdir()
    for file in (engine, metadata_path(engine)):
        file.rename(folder / file.name)
    [added] = write_bundle_with_engines(bundle, tmp_path / "shipped")
    assert added.sha256 == sha256_file(folder / engine.name)


def test_it_is_loaded_only_where_the_user_trusts_engines(bundle, cache, tmp_path, monkeypatch):
    write_bundle_with_engines(bundle, tmp_path / "shipped")
    artefact = Manifest.load(tmp_path / "shipped").find_artefact()
    compiled = find_runnable_file(tmp_path / "shipped", artefact)
    assert compiled.parent == cache
    shutil.rmtree(cache)
    monkeypatch.setenv(TRUST_ENGINES, "1")
    shipped = find_runnable_file(tmp_path / "shipped", artefact)
    assert shipped == (tmp_path / "shipped" / artefact.engines[0].file).resolve()
    session = load_artefact(tmp_path / "shipped", artefact, threads=1)
    assert session.runtime_info()["engine_sha256"] == artefact.engines[0].sha256
    assert session.run(np.zeros((1, 3, 4, 16, 16), np.float32)).shape == (1, 5)
    session.close()
    assert not cache.exists()  # nothing was compiled


def test_an_engine_of_another_version_is_not_loaded_but_compiled(bundle, engine, cache, tmp_path, monkeypatch):
    monkeypatch.setenv(TRUST_ENGINES, "1")
    replace(read_engine_metadata(engine), version="10.0.1").save(engine)
    write_bundle_with_engines(bundle, tmp_path / "shipped")
    assert verify_bundle(tmp_path / "shipped", strict=True).problems == []
    compiled = find_runnable_file(tmp_path / "shipped", Manifest.load(tmp_path / "shipped").find_artefact())
    assert compiled.parent == cache


def test_a_changed_engine_is_a_problem_and_is_not_loaded(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv(TRUST_ENGINES, "1")
    [added] = write_bundle_with_engines(bundle, tmp_path / "shipped")
    path = tmp_path / "shipped" / added.file
    path.write_bytes(path.read_bytes() + b"x")
    assert added.file in verify_bundle(tmp_path / "shipped").problems[0]
    with pytest.raises(UserError, match="is not the engine in the manifest"):
        find_runnable_file(tmp_path / "shipped", Manifest.load(tmp_path / "shipped").find_artefact())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version_compatible": True}, "contains host code"),
        ({"source_sha256": "0" * 64}, "was not compiled from wide.fp32.onnx"),
        ({"sms": [75]}, "and the manifest states"),
    ],
)
def test_metadata_that_contradicts_the_manifest_is_a_problem(bundle, tmp_path, change, words):
    """Also where the manifest lists its hash: whoever wrote the bundle may have written anything."""
    [added] = write_bundle_with_engines(bundle, tmp_path / "shipped")
    path = tmp_path / "shipped" / added.file
    replace(read_engine_metadata(path), **change).save(path)
    manifest = Manifest.load(tmp_path / "shipped")
    documents = manifest.documents | {f"{added.file}.json": sha256_file(metadata_path(path))}
    replace(manifest, documents=documents).save(tmp_path / "shipped")
    assert find_bundle_problems(tmp_path / "shipped") == []
    [problem] = find_engine_problems(tmp_path / "shipped", Manifest.load(tmp_path / "shipped"))
    assert problem in verify_bundle(tmp_path / "shipped").problems
    assert words in problem


def test_engines_of_other_devices_are_named(bundle, engine, fp32, tmp_path, capsys):
    """Where another device measured, the run holds no engine."""
    elsewhere = tmp_path / "elsewhere"
    shutil.move(engine.parent, elsewhere)
    words = ["bundle", str(bundle), "--with-engines", str(tmp_path / "shipped")]
    assert run(words) == 1
    assert "copy them from there with their metadata, and name them with --engine" in capsys.readouterr().err
    assert not (tmp_path / "shipped").exists()
    assert run([*words, "--engine", str(elsewhere / engine.name)]) == 0
    assert "wrote" in capsys.readouterr().out
    assert run(["verify", str(tmp_path / "shipped"), "--strict"]) == 0
    assert run(words[:2]) == 2
    assert "--triton OUT or --with-engines OUT" in capsys.readouterr().err


def test_engines_that_do_not_belong_are_refused(bundle, engine, tmp_path, write, fp32):
    metadata = read_engine_metadata(engine)
    for change, words in (
        ({"source_sha256": "0" * 64}, "is not a file of this bundle"),
        ({"runtime": "tensorrt-rtx"}, "was measured on tensorrt"),
        ({"version_compatible": True}, "contains host code"),
    ):
        replace(metadata, **change).save(engine)
        with pytest.raises(UserError, match=words):
            write_bundle_with_engines(bundle, tmp_path / "shipped")
    metadata_path(engine).unlink()
    with pytest.raises(UserError, match="has no metadata file"):
        write_bundle_with_engines(bundle, tmp_path / "shipped")
    plain = write(tmp_path / "plain", fp32)
    with pytest.raises(UserError, match="was measured as an engine; name engines with --engine"):
        write_bundle_with_engines(plain, tmp_path / "shipped")
    (bundle / "wide.fp32.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="has changed since it was written"):
        write_bundle_with_engines(bundle, tmp_path / "shipped")
    assert not (tmp_path / "shipped").exists()


def test_a_second_copy_replaces_the_first_and_keeps_its_engines(bundle, engine, fp32, tmp_path):
    write_bundle_with_engines(bundle, tmp_path / "one")
    other = find_runtime("tensorrt").compile(fp32, engine.parent, CompileOptions(level=1))
    for _ in range(2):  # written, then replaced
        both = write_bundle_with_engines(tmp_path / "one", tmp_path / "two", [other])
        assert {e.sha256 for e in both} == {sha256_file(engine), sha256_file(other)}
        assert verify_bundle(tmp_path / "two", strict=True).problems == []
        assert (tmp_path / "two" / "README.md").read_text().count("## Engines") == 1
