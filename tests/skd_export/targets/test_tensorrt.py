"""Engines: which file of a bundle they are built from, and what is reported. TensorRT-RTX really builds them."""

import json
import shutil
from pathlib import Path

import pytest

from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.runtimes.tensorrt.engine_file import read_engine_metadata
from skd_bench.runtimes.tensorrt.library import FLAVOURS, find_installed_modules
from skd_bench.video.types import Preprocessing, Sampling
from skd_edge.cli.main import run
from skd_export.bundle.writer import ModelFile, write_bundle
from skd_export.graph.uint8_input import add_preprocessing
from skd_export.quantization.quantize import quantize_for_ort, quantize_for_tensorrt
from skd_export.targets.tensorrt import build_engines

RTX = "tensorrt-rtx"
pytestmark = pytest.mark.skipif(find_installed_modules(FLAVOURS[RTX]) is None, reason="TensorRT-RTX is not installed")


def write(folder, *models):
    return write_bundle(
        folder,
        name="motion",
        classes=["left", "right", "up", "down", "still"],
        sampling=Sampling(4),
        preprocess=Preprocessing(16, 16, "crop", (0.45,) * 3, (0.225,) * 3),
        models=list(models),
        licences={},
        created_by="test",
    )


def test_engines_are_written_beside_the_bundle(fp32, tmp_path):
    bundle = write(tmp_path / "bundle", ModelFile(fp32, "fp32", "wide", ["teacher", "wide"]))
    before = sorted(p.name for p in bundle.rglob("*"))
    made = build_engines(bundle, runtime=RTX, sms=[86, 86])
    assert sorted(p.name for p in bundle.rglob("*")) == before
    assert find_bundle_problems(bundle) == []
    ((path, note),) = made.built
    assert path == tmp_path / "bundle-engines" / "wide.fp32.tensorrt-rtx.sm86.engine"
    assert read_engine_metadata(path) == note
    assert (note.classes, note.shape, note.source_sha256) == (5, [3, 4, 16, 16], sha256_file(fp32))
    assert json.loads(json.dumps(made.to_json()))["engines"][0]["state"] == "built, not run"


def test_the_command_builds_fp16_for_turing(fp32, tmp_path, capsys):
    source = tmp_path / "mein Netz.onnx"
    shutil.copy(fp32, source)
    command = ["build", str(source), "--sm", "75", "--precision", "fp16", "--out", str(tmp_path / "e")]
    assert run(command) == 0
    output = capsys.readouterr().out
    assert "built, not run" in output
    assert "(fp16)" in output
    note = read_engine_metadata(tmp_path / "e" / "mein Netz.fp16.tensorrt-rtx.sm75.engine")
    assert note.source_sha256 == sha256_file(tmp_path / "e" / "mein Netz.fp16.onnx") != sha256_file(source)
    assert note.dtype == "float32"
    assert run([*command[:2], "--sm", "90"]) == 1
    assert "not for SM90" in capsys.readouterr().err


def test_several_builds_report_their_variation(fp32, tmp_path, capsys):
    words = ["build", str(fp32), "--sm", "86", "--builds", "2", "--out", str(tmp_path / "e")]
    assert run([*words, "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)["engines"]
    assert (
        [sha for _, sha in row["builds"]][-1] == row["sha256"] == sha256_file(tmp_path / "e" / Path(row["engine"]).name)
    )
    assert len(row["builds"]) == 2
    assert all(seconds > 0 for seconds, _ in row["builds"])
    assert "2 builds took" in build_engines(fp32, tmp_path / "f", runtime=RTX, sms=[86], builds=2).to_text()


@pytest.mark.parametrize("option", ["--ampere-plus", "--timing-cache=t.cache"])
def test_an_option_that_rtx_would_ignore_is_refused(fp32, tmp_path, capsys, option):
    assert run(["build", str(fp32), "--sm", "86", option, "--out", str(tmp_path / "e")]) == 1
    assert "TensorRT-RTX 1" in capsys.readouterr().err
    assert not (tmp_path / "e").exists()


def test_a_bundle_without_an_fp32_file_is_refused(fp32, batches, tmp_path):
    quantize_for_ort(fp32, tmp_path / "q.onnx", batches(), reduce_range=False)
    bundle = write(tmp_path / "bundle", ModelFile(tmp_path / "q.onnx", "int8", "wide", ["teacher", "wide"]))
    with pytest.raises(UserError, match="no FP32 file"):
        build_engines(bundle, runtime=RTX, sms=[86])


def test_for_the_int8_file_for_cpus_the_error_names_operator_and_node(fp32, batches, tmp_path):
    quantize_for_ort(fp32, tmp_path / "q.onnx", batches(), reduce_range=False)
    with pytest.raises(UserError, match=r"operator (De)?[qQ]uantizeLinear at the node '.+'.*another runtime"):
        build_engines(tmp_path / "q.onnx", runtime=RTX, sms=[86])


def test_a_missing_source_and_an_unknown_precision_are_refused(fp32, tmp_path):
    with pytest.raises(UserError, match="none does not exist; give the folder of a bundle or an ONNX file"):
        build_engines(tmp_path / "none", runtime=RTX, sms=[86])
    with pytest.raises(UserError, match="unknown precision 'int8' for engines; choose from fp32, fp16"):
        build_engines(fp32, tmp_path, runtime=RTX, sms=[86], precision="int8")


def test_a_changed_bundle_is_refused(fp32, tmp_path):
    bundle = write(tmp_path / "bundle", ModelFile(fp32, "fp32", "wide", ["teacher", "wide"]))
    file = bundle / "wide.fp32.onnx"
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(UserError, match="has changed since it was written"):
        build_engines(bundle, runtime=RTX, sms=[86])


def test_an_engine_is_built_from_the_symmetric_int8_file_with_uint8_input(fp32, batches, tmp_path):
    quantize_for_tensorrt(fp32, tmp_path / "clip.onnx", batches())
    how = Preprocessing(16, 16, "crop", (0.45,) * 3, (0.225,) * 3)
    add_preprocessing(tmp_path / "clip.onnx", tmp_path / "int8.onnx", how, (24, 20))
    [(engine, note)] = build_engines(tmp_path / "int8.onnx", tmp_path, runtime=RTX, sms=[86]).built
    assert engine.stat().st_size == note.bytes > 0
    assert note.state == "built, not run"


def test_a_bundle_is_built_from_at_its_own_precisions(fp32, batches, tmp_path):
    """Only the FP32 file could be built from, and an INT8 engine was labelled fp32."""
    quantize_for_tensorrt(fp32, tmp_path / "int8.onnx", batches())
    models = [
        ModelFile(fp32, "fp32", "wide", ["wide"]),
        ModelFile(tmp_path / "int8.onnx", "int8-trt", "wide", ["wide"]),
    ]
    bundle = write(tmp_path / "bundle", *models)
    made = build_engines(bundle, runtime=RTX, sms=[86], precision="int8-trt")
    ((path, note),) = made.built
    assert path.name == "wide.int8-trt.tensorrt-rtx.sm86.engine"
    assert (note.precision, note.source_sha256) == ("int8", sha256_file(tmp_path / "int8.onnx"))
    without = write(tmp_path / "without", models[0])
    with pytest.raises(UserError, match=r"has no INT8-TRT file; add int8-trt to export\.precisions"):
        build_engines(without, runtime=RTX, sms=[86], precision="int8-trt")
