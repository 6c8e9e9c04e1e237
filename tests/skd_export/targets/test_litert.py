"""The export to LiteRT: the missing converter, its errors, and a real export where it is installed."""

import importlib.machinery
import importlib.util
import logging
import sys
import types

import numpy as np
import pytest
import torch

from skd_bench.errors import UserError
from skd_bench.runtimes.litert import LiteRtRuntime
from skd_export.exporter import QuantizationConfig, make_artefacts, read_metadata
from skd_export.targets.litert import describe_litert, explain_missing_converter, export_litert, quantize_litert

SHAPE = (4, 16, 16)
needs_runtime = pytest.mark.skipif(LiteRtRuntime().why_unavailable() is not None, reason="LiteRT cannot be used here")


@pytest.fixture
def failing_converter(monkeypatch):
    """Installs a converter that prints, changes the root logger, and fails with an error of two lines."""

    def convert(network, example):
        print("progress")
        logging.getLogger().addHandler(logging.NullHandler())
        logging.getLogger().setLevel(logging.DEBUG)
        raise RuntimeError(f"no lowering for an input of {tuple(example[0].shape)}\nand pages of advice")

    module = types.ModuleType("litert_torch")
    module.convert, module.__spec__ = convert, importlib.machinery.ModuleSpec("litert_torch", None)
    monkeypatch.setitem(sys.modules, "litert_torch", module)


def test_without_the_converter_the_error_names_the_page_that_installs_it(network, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "litert_torch", None)  # as if it were not installed
    assert explain_missing_converter().startswith("litert-torch is not installed")
    with pytest.raises(UserError, match=r"a \.tflite file cannot be written: .*docs/precision\.md"):
        export_litert(network, tmp_path / "x.tflite", clip_shape=SHAPE)
    assert not list(tmp_path.iterdir())


@needs_runtime
def test_train_mode_is_refused(network, tmp_path, failing_converter):
    with pytest.raises(UserError, match=r"train mode.*eval"):
        export_litert(network.train(), tmp_path / "x.tflite", clip_shape=SHAPE)


@needs_runtime
def test_an_error_of_the_converter_becomes_one_line_and_its_output_is_hidden(
    network, tmp_path, failing_converter, capfd
):
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    with pytest.raises(UserError, match="litert-torch cannot convert the network: RuntimeError") as caught:
        export_litert(network, tmp_path / "x.tflite", clip_shape=SHAPE)
    assert "(1, 3, 4, 16, 16)" in str(caught.value)
    assert "advice" not in str(caught.value)
    assert (root.level, root.handlers) == before
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(explain_missing_converter() is not None, reason="litert-torch is not installed")
def test_the_file_has_the_logits_of_the_network(network, clips, tmp_path):
    found = export_litert(network, tmp_path / "x.tflite", clip_shape=SHAPE)
    assert found["batch"] == 1
    session = LiteRtRuntime().load(tmp_path / "x.tflite", threads=1)
    clip = clips(1, 7)
    with torch.inference_mode():
        expected = network(torch.from_numpy(clip)).numpy()
    assert np.abs(session.run(clip) - expected).max() / np.abs(expected).max() < 1e-4


@pytest.mark.skipif(explain_missing_converter() is not None, reason="litert-torch is not installed")
def test_other_precisions_are_made_from_the_fp32_file_and_take_floats(network, clips, batches, tmp_path):
    export_litert(network, tmp_path / "fp32.tflite", clip_shape=SHAPE)
    held_out = clips(64, 9)
    with torch.inference_mode():
        reference = network(torch.from_numpy(held_out)).numpy()
    for precision, least in (("fp16", 0.99), ("int8", 0.95)):
        path = tmp_path / f"{precision}.tflite"
        made = quantize_litert(tmp_path / "fp32.tflite", path, precision, batches())
        assert made["converter"].startswith("ai-edge-quantizer ")
        assert path.stat().st_size < (tmp_path / "fp32.tflite").stat().st_size
        session = LiteRtRuntime().load(path, threads=1)
        assert (session.input.dtype, session.output.dtype) == ("float32", "float32")
        logits = np.concatenate([session.run(clip[None]) for clip in held_out])
        assert (logits.argmax(1) == reference.argmax(1)).mean() >= least
        operators = describe_litert(path, made)["operators"]
        assert operators["DELEGATE"] >= 1
        assert ("QUANTIZE" in operators) == (precision == "int8")
    with pytest.raises(UserError, match="INT8 needs calibration clips"):
        quantize_litert(tmp_path / "fp32.tflite", tmp_path / "x.tflite", "int8", [])
    assert not (tmp_path / "x.tflite").exists()


@pytest.mark.skipif(explain_missing_converter() is not None, reason="litert-torch is not installed")
def test_its_files_are_artefacts_that_are_written_once(network, batches, tmp_path):
    keys = ("fp16.litert", "int8.litert")
    config = QuantizationConfig(batches)
    made = make_artefacts(network, keys, tmp_path, clip_shape=SHAPE, classes=list("abcde"), quantization=config)
    assert [path.name for path in made.values()] == ["fp16.litert.tflite", "int8.litert.tflite"]
    assert read_metadata(made["int8.litert"])["batch"] == 1
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    make_artefacts(network, keys, tmp_path, clip_shape=SHAPE, classes=list("abcde"), quantization=config)
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before
    with pytest.raises(UserError, match=r"int8\.litert needs calibration clips"):
        make_artefacts(network, keys, tmp_path, clip_shape=SHAPE, classes=list("abcde"))
