"""The README and the measurements page of a bundle; the README's examples run."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skd_bench.bundle.manifest import Manifest
from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.runtimes import registered_runtimes
from skd_bench.runtimes.cuda import why_cuda_unavailable
from skd_bench.runtimes.tensorrt.library import FLAVOURS, find_installed_modules
from skd_export.bundle.writer import ModelFile
from skd_export.quantization.quantize import convert_bf16
from skd_export.targets.triton import write_triton_repository


def find_examples(bundle):
    """The README's Python examples, by the module that they use."""
    blocks = re.findall(r"```python\n(.*?)```", (bundle / "README.md").read_text(), re.S)
    wanted = ("onnxruntime", "openvino", "skd_bench")
    found = {name: block for name in wanted for block in blocks if name in block}
    assert len(found) == len(blocks) == len(wanted)
    return found


def test_the_readme_describes_input_files_and_licences(write, fp32, tmp_path):
    text = (write(tmp_path / "b", fp32) / "README.md").read_text()
    for words in (
        *("# motion", "5 classes", "| 4 | still |", "(B, 3, 4, 16, 16)", "[0.45, 0.45, 0.45]", "teacher → assistant"),
        *("| fp32 | ort |", "| 100.0 % |", "data: CC-BY-4.0", "weights: Apache-2.0"),
    ):
        assert words in text
    assert str(tmp_path) not in text
    measured = (tmp_path / "b" / "MEASURED.md").read_text()
    assert "| 87.1 % (83.0 to 90.0) | 1.23 | 1.50 | n/a | ab12 |" in measured


def test_class_names_cannot_change_the_markup_of_the_readme(write, fp32, tmp_path):
    bundle = write(tmp_path / "b", fp32, classes=["a|b", "c\n\n# d", "<script>", "`x`", "é 走"])
    text = (bundle / "README.md").read_text()
    assert "| 0 | a\\|b |" in text
    assert "| 1 | c \\# d |" in text
    assert "<script>" not in text.replace("\\<", "")
    assert "| 4 | é 走 |" in text
    assert Manifest.load(bundle).classes[1] == "c\n\n# d"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_example_reports_nothing_home(write, fp32, tmp_path, process_watch, runtime):
    """Nobody who runs it has imported skd_bench, which turns the reporting off."""
    pytest.importorskip(runtime, reason=f"{runtime} is not installed")
    watch, bundle = process_watch(tmp_path / "watch"), write(tmp_path / "b", fp32)
    environment = {n: v for n, v in os.environ.items() if "TELEMETRY" not in n and n != "DO_NOT_TRACK"}
    subprocess.run(
        [sys.executable, "-c", find_examples(bundle)[runtime]],
        cwd=bundle,
        env=environment | watch.variables,
        capture_output=True,
        check=True,
    )
    assert watch.list_files() == []
    assert watch.list_connections() == []


def test_the_onnx_runtime_example_runs(write, fp32, tmp_path, class_names):
    bundle = write(tmp_path / "b", fp32)
    example = find_examples(bundle)["onnxruntime"]
    done = subprocess.run([sys.executable, "-I", "-c", example], cwd=bundle, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in class_names
    assert len(example.strip().splitlines()) <= 12


def test_the_openvino_example_runs(write, fp32, tmp_path, class_names, measured, cascade_path):
    pytest.importorskip("openvino", reason="openvino is not installed")
    model = ModelFile(fp32, "fp32", "wide", cascade_path, measured=measured, runtime="openvino")
    bundle = write(tmp_path / "b", fp32, models=[model])
    readme = (bundle / "README.md").read_text()
    assert "(FP32 on OpenVINO, " in readme
    assert readme.index("## OpenVINO") < readme.index("## Use it from Python: ONNX Runtime")
    assert "`wide.fp32.onnx` was measured and chosen on this runtime" in readme
    assert "`wide.fp32.onnx` on OpenVINO" in (bundle / "MEASURED.md").read_text()
    words = [sys.executable, "-I", "-c", find_examples(bundle)["openvino"]]
    done = subprocess.run(words, cwd=bundle, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in class_names


def test_a_bundle_can_contain_a_litert_file_and_its_example_runs(write, fp32, tmp_path, class_names, cascade_path):
    if reason := registered_runtimes()["litert"].why_unavailable():
        pytest.skip(f"LiteRT cannot be used here: {reason}")
    write_tflite = runpy.run_path(str(Path(__file__).parents[2] / "skd_bench" / "tiny_tflite.py"))["linear_tflite"]
    rng, shape = np.random.default_rng(0), (3, 4, 16, 16)
    weights, bias = rng.normal(size=(3 * 4 * 16 * 16, 5)).astype(np.float32), np.zeros(5, np.float32)
    tflite = write_tflite(tmp_path / "fp32.tflite", weights, bias, shape, 1)
    models = [
        ModelFile(fp32, "fp32", "wide", cascade_path),
        ModelFile(tflite, "fp32", "wide", cascade_path, runtime="litert"),
    ]
    bundle = write(tmp_path / "b", fp32, models=models)
    assert [a.file for a in Manifest.load(bundle).artefacts] == ["wide.fp32.onnx", "wide.fp32.tflite"]
    [example] = [
        b for b in re.findall(r"```python\n(.*?)```", (bundle / "README.md").read_text(), re.S) if "litert" in b
    ]
    words = [sys.executable, "-I", "-c", example]
    done = subprocess.run(words, cwd=bundle, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in class_names
    assert write_triton_repository(bundle, tmp_path / "models") == ["wide_fp32"]


@pytest.mark.skipif(why_cuda_unavailable() is None, reason="this machine has a GPU")
def test_the_tensorrt_example_builds_and_is_refused_without_a_gpu(write, fp32, tmp_path):
    if find_installed_modules(FLAVOURS["tensorrt-rtx"]) is None:
        pytest.skip("TensorRT-RTX is not installed")
    bundle = write(tmp_path / "b", fp32)
    text = (bundle / "README.md").read_text()
    [command] = re.findall(r"^skd-edge (build .*)$", text, re.M)
    words = command.replace("--runtime tensorrt ", "--runtime tensorrt-rtx --sm 86 ").split()
    example = find_examples(bundle)["skd_bench"].replace(".tensorrt.engine", ".tensorrt-rtx.sm86.engine")
    code = f"from skd_edge.cli.main import run\nassert run({words!r}) == 0\n" + example.replace(
        '"tensorrt"', '"tensorrt-rtx"'
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=bundle, capture_output=True, text=True, check=False)
    assert "built, not run" in done.stdout, done.stderr
    assert "UserError" in done.stderr.splitlines()[-1]
    assert "cannot be used" in done.stderr.splitlines()[-1]
    assert (tmp_path / "engines").is_dir()
    assert find_bundle_problems(bundle) == []


def test_examples_name_files_that_their_runtimes_can_run(write, fp32, tmp_path):
    """ONNX Runtime has no bfloat16 convolution, and rounds biases of FP8 files wrongly as it is installed."""
    convert_bf16(fp32, tmp_path / "bf16.onnx")
    files = [
        ModelFile(tmp_path / "bf16.onnx", "bf16", "wide", ["wide"], runtime="openvino"),
        ModelFile(fp32, "fp32", "wide", ["wide"]),
    ]
    examples = find_examples(write(tmp_path / "both", fp32, models=files))
    assert 'InferenceSession("wide.fp32.onnx"' in examples["onnxruntime"]
    assert 'compile_model("wide.bf16.onnx"' in examples["openvino"]
    text = (write(tmp_path / "alone", fp32, models=files[:1]) / "README.md").read_text()
    assert "InferenceSession" not in text
    assert "is for OpenVINO on a CPU with bfloat16 arithmetic" in text
    gpu_only = ModelFile(tmp_path / "bf16.onnx", "fp8", "wide", ["wide"], runtime="tensorrt")
    text = (write(tmp_path / "gpu", fp32, models=[gpu_only]) / "README.md").read_text()
    assert "InferenceSession" not in text
    assert "compile_model" not in text
    assert "GPUs from SM89 on" in text
