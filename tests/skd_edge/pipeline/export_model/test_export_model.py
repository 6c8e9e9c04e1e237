"""``skd-edge export``: checkpoints and factories become bundles, or are refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from skd_bench.bundle.manifest import Manifest
from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.runtimes import openvino
from skd_bench.runtimes.openvino import why_no_bfloat16
from skd_edge.cli.main import run
from skd_edge.data.sources.synthetic import render_clip, write_video
from skd_edge.models.tsm import build_tsm
from skd_edge.recipe.schema import NetworkSpec

SPEC = NetworkSpec(name="n", family="mobile", width=4, depths=(1, 1), temporal="shift")
OPTIONS = ["--width", "4", "--depths", "1,1", "--temporal", "shift", "--frames", "4", "--size", "16"]
CLASSES = ("move_left", "orbit", "shrink")
FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body, self.head = nn.Conv3d(3, 6, 3), nn.Linear(6, classes)
    def forward(self, frames):
        return self.head(torch.relu(self.body(frames.transpose(1, 2))).mean((2, 3, 4)))

def ready(classes=3):
    torch.manual_seed(0)
    return Net(classes).eval()

def training():
    return Net(3)
"""


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for i in range(18):
        name = CLASSES[i % 3]
        (root / name).mkdir(exist_ok=True)
        write_video(root / name / f"{i}.mp4", render_clip(name, frames=8, size=16, difficulty=0.1, seed=i))
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Weights whose logits differ between clips: batch norms have statistics of clips, and the head is scaled."""
    network = build_tsm(SPEC, classes=3, frames=4, size=16, seed=0)
    clips = np.stack([render_clip(CLASSES[i % 3], frames=4, size=16, difficulty=0.1, seed=i) for i in range(24)])
    x = torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float() / 255 - 0.45
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        network(x)
        network.eval()
        network.head.weight.mul_(20)
        network.head.bias.sub_(network(x).logits.mean(0))
    path = tmp_path_factory.mktemp("checkpoint") / "mine.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    return path


def test_a_checkpoint_becomes_a_bundle_within_the_same_bounds(checkpoint, videos, tmp_path, capsys):
    words = ["export", str(checkpoint), *OPTIONS, "--clips", str(videos), "--precisions", "fp32,int8"]
    words += ["--calibration", "6", "--out", str(tmp_path / "b"), "--json"]
    assert run(words) == 0
    printed = json.loads(capsys.readouterr().out)
    fp32, int8 = printed["files"]
    assert fp32["refused"] is None
    assert (fp32["parity"]["n"], fp32["parity"]["agreement"]) == (12, 1.0)
    assert fp32["parity"]["spread"] > 0.01
    assert any("12 clips were compared" in note for note in printed["notes"])
    manifest = Manifest.load(tmp_path / "b")
    assert find_bundle_problems(tmp_path / "b") == []
    assert manifest.classes == list(CLASSES)
    assert [a.precision for a in manifest.artefacts] == ["fp32"] + ["int8"] * (int8["refused"] is None)
    assert "accuracy" in manifest.find_artefact("mine.fp32.onnx").measured
    for artefact in manifest.artefacts[1:]:
        assert artefact.options["calibration"]["clips"] == 6
        assert len(artefact.options["calibration"]["sha256"]) == 64
    assert str(tmp_path) not in (tmp_path / "b" / "manifest.json").read_text()


@pytest.mark.skipif(why_no_bfloat16() is not None, reason="no bfloat16 arithmetic")
def test_bf16_is_compared_on_openvino_and_fp8_on_onnx_runtime(checkpoint, videos, tmp_path, capsys):
    words = ["export", str(checkpoint), *OPTIONS, "--clips", str(videos), "--precisions", "fp32,bf16,fp8"]
    assert run([*words, "--calibration", "6", "--out", str(tmp_path / "b"), "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert [(f["precision"], f["runtime"]) for f in files] == [("fp32", "ort"), ("bf16", "openvino"), ("fp8", "ort")]
    assert all(f["parity"]["n"] == 12 and f["parity"]["cosine"] > 0.95 for f in files)
    artefacts = {a.precision: a for a in Manifest.load(tmp_path / "b").artefacts}
    assert [(p, artefacts[p].runtime) for p in artefacts if p != "fp8"] == [("fp32", "ort"), ("bf16", "openvino")]
    assert find_bundle_problems(tmp_path / "b") == []


def test_bf16_is_refused_early_where_nothing_can_compare_it(checkpoint, videos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(openvino, "_has_bfloat16", lambda core: False)
    words = ["export", str(checkpoint), *OPTIONS, "--clips", str(videos), "--precisions", "fp32,bf16"]
    assert run([*words, "--out", str(tmp_path / "b")]) == 1
    assert "compared on OpenVINO, and" in (printed := capsys.readouterr().err)
    assert "remove bf16 from --precisions" in printed
    assert not (tmp_path / "b").exists()


def test_without_clips_no_accuracy_is_stated(checkpoint, tmp_path, capsys):
    assert run(["export", str(checkpoint), *OPTIONS, "--out", str(tmp_path / "b"), "--name", "plain"]) == 0
    assert "nothing was compared" in capsys.readouterr().out
    [artefact] = Manifest.load(tmp_path / "b").artefacts
    assert (artefact.file, artefact.parity, artefact.measured) == ("plain.fp32.onnx", {}, {})
    assert "not compared" in (tmp_path / "b" / "README.md").read_text()


def test_a_factory_runs_only_where_code_is_allowed(videos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("somebodys_net.py").write_text(FACTORY)
    words = ["export", "somebodys_net:ready", "--frames", "4", "--size", "16", "--input", "frames-first"]
    words += ["--clips", str(videos), "--arguments", '{"classes": 3}', "--most", "6"]
    assert run(words) == 2
    assert "--allow-code" in capsys.readouterr().err
    assert run([*words, "--allow-code"]) == 0
    assert Manifest.load("ready-bundle").find_artefact().parity["agreement"] == 1.0
    assert run(["export", "somebodys_net:training", *words[2:8], "--allow-code"]) == 1
    assert "train mode" in capsys.readouterr().err
    assert not Path("training-bundle").exists()


def test_a_dry_run_writes_nothing(checkpoint, videos, tmp_path, capsys):
    words = ["export", str(checkpoint), *OPTIONS, "--clips", str(videos), "--out", str(tmp_path / "b"), "--dry-run"]
    (videos / "notes.txt").touch()
    assert run(words) == 0
    (videos / "notes.txt").unlink()
    printed = capsys.readouterr().out
    assert "18 of 18 clips" in printed
    assert "left out: 1 .txt (.)" in printed
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("words", "code", "printed"),
    [
        (["nothing.pt"], 2, "neither a checkpoint"),
        (["CHECKPOINT", "--width", "8"], 1, "does not fit a mobile network of width 8"),
        (["CHECKPOINT", "--width", "x"], 2, "--width"),
        (["CHECKPOINT", "--size", "7"], 2, "--size"),
        (["CHECKPOINT", "--depths", "1,a"], 2, "--depths"),
        (["CHECKPOINT", "--precisions", "int8"], 2, "--clips"),
        (["CHECKPOINT", "--precisions", "fp8"], 2, "--clips"),
        (["CHECKPOINT", *OPTIONS, "--classes", "a,b"], 2, "has 3 classes"),
        (["CHECKPOINT", *OPTIONS, "--precisions", "fp3"], 1, "unknown precision 'fp3'"),
        (
            ["CHECKPOINT", "--recipe", "quickstart", "--network", "tiny"],
            2,
            "--network 'tiny' is not a network of the recipe",
        ),
        (["CHECKPOINT", "--arguments", "[1]"], 2, "is not a JSON object"),
        (["PICKLE", *OPTIONS], 1, "could run code"),
        (["no.such.module:factory", "--allow-code"], 1, "cannot import"),
    ],
)
def test_what_cannot_be_exported_says_why(checkpoint, tmp_path, capsys, monkeypatch, words, code, printed):
    monkeypatch.chdir(tmp_path)
    torch.save({"what": Path("/")}, tmp_path / "evil.pt")
    named = {"CHECKPOINT": str(checkpoint), "PICKLE": "evil.pt"}
    assert run(["export", *(named.get(word, word) for word in words)]) == code
    assert printed in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["evil.pt"]


def test_files_may_take_frames(checkpoint, videos, tmp_path, capsys):
    words = ["export", str(checkpoint), *OPTIONS, "--clips", str(videos), "--contract", "frames"]
    assert run([*words, "--out", str(tmp_path / "b"), "--json"]) == 0
    [fp32] = json.loads(capsys.readouterr().out)["files"]
    assert (fp32["parity"]["n"], fp32["parity"]["agreement"]) == (18, 1.0)
    manifest = Manifest.load(tmp_path / "b")
    assert manifest.contract == "uint8_frames"
    assert run(["predict", str(tmp_path / "b"), str(next(videos.rglob("*.mp4")))]) == 0


def test_costly_layers_stay_in_fp32_as_in_a_run(checkpoint, videos, tmp_path, capsys):
    """Calibrated on two clips, the ranges do not fit all others and classes change; but no class may change here."""
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "extends: quickstart\nclip: {frames: 4, size: 16}\n"
        "students: [{name: mine, width: 4, depths: [1, 1], temporal: shift}]\n"
        "teacher: {family: resnet, width: 4, depths: [1, 1]}\nassistants: []\n"
        "export: {int8_agreement: 1.0, int8_drop: 0}\n"
    )
    words = ["export", str(checkpoint), "--recipe", str(recipe), "--network", "mine", "--classes", ",".join(CLASSES)]
    words += ["--clips", str(videos), "--precisions", "fp32,int8", "--calibration", "2"]
    assert run([*words, "--out", str(tmp_path / "b"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert any("kept in FP32 to stay within the bounds" in note for note in printed["notes"])
    assert [(f["refused"], f["parity"]["agreement"]) for f in printed["files"]] == [(None, 1.0)] * 2
    assert Manifest.load(tmp_path / "b").find_artefact("mine.int8.onnx").options["excluded"]


def test_a_missing_litert_converter_is_an_error_before_anything_is_written(checkpoint, tmp_path, capsys):
    words = ["export", str(checkpoint), *OPTIONS, "--litert", "--out", str(tmp_path / "b")]
    assert run([*words, "--contract", "frames"]) == 2
    assert "normalised clips" in capsys.readouterr().err
    from skd_export.targets.litert import explain_missing_converter

    if explain_missing_converter():
        assert run(words) == 1
        assert "litert-torch is not installed" in capsys.readouterr().err
        assert not (tmp_path / "b").exists()
