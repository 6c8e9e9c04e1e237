"""The program in a fresh interpreter, a small recipe, commands of a test's own, and a real bundle."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from skd_bench.bundle.manifest import SCHEMA, Artefact, Manifest
from skd_bench.files import sha256_file
from skd_bench.video.types import Preprocessing, Sampling
from skd_edge.cli.main import cli

RECIPE = "name: small\ndata: {kind: generated}\nstudents: [{name: s}]\n"


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> str:
    """A recipe in the working directory of the test; returns its name."""
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    return "r.yaml"


@pytest.fixture
def command() -> Iterator[Callable[[str, object], None]]:
    """Adds a command of the test's own to the program for as long as the test lasts."""
    added: list[str] = []

    def _add(name: str, function: object) -> None:
        cli.add_command(click.command(name)(function))
        added.append(name)

    yield _add
    for name in added:
        del cli.commands[name]


@pytest.fixture
def program() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the program in a fresh interpreter, after some code of the test's."""

    def _program(code: str, *args: str, **options: object) -> subprocess.CompletedProcess[str]:
        script = f"import sys\n{code}\nfrom skd_edge.cli.main import main\nmain()"
        words = [sys.executable, "-c", script, *args]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, **options)

    return _program


def network(path: Path) -> None:
    """Mean over the clip, times (1, -1): logits of "bright" and "dark"."""
    axes = numpy_helper.from_array(np.array([1, 2, 3, 4]), "axes")
    sign = numpy_helper.from_array(np.array([[1.0, -1.0]], np.float32), "sign")
    shape = numpy_helper.from_array(np.array([-1, 1]), "shape")
    nodes = [
        helper.make_node("ReduceMean", ["clip", "axes"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "shape"], ["column"]),
        helper.make_node("MatMul", ["column", "sign"], ["logits"]),
    ]
    clip = helper.make_tensor_value_info("clip", TensorProto.FLOAT, ["batch", 3, 4, 16, 16])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph(nodes, "tiny", [clip], [logits], [axes, sign, shape])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))


@pytest.fixture
def bundle(tmp_path) -> Path:
    """A bundle with one ONNX file that distinguishes bright videos from dark ones."""
    folder = tmp_path / "bundle ü"
    folder.mkdir()
    network(folder / "tiny.onnx")
    file = folder / "tiny.onnx"
    artefact = Artefact("tiny.onnx", sha256_file(file), file.stat().st_size, "fp32", "ort", "tiny", ["teacher", "tiny"])
    preprocess = Preprocessing(16, 16, "crop", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    manifest = Manifest(
        SCHEMA, "tiny", "test", ["bright", "dark"], "float_clip", Sampling(4), preprocess, "tiny.onnx", [artefact]
    )
    manifest.save(folder)
    return folder
