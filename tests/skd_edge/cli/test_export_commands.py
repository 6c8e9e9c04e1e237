"""``export``, ``build`` and ``bundle`` as commands; what they write is tested beside the code that writes it."""

from __future__ import annotations

import json

import pytest

from skd_edge.cli.main import run


def test_a_bundle_in_the_layout_of_triton(bundle, tmp_path, capsys):
    out = tmp_path / "models and more"
    assert run(["bundle", str(bundle), "--triton", str(out), "--batch", "4"]) == 0
    printed = capsys.readouterr().out
    assert f"tritonserver --model-repository='{out}'" in printed
    (config,) = out.rglob("config.pbtxt")
    assert "max_batch_size: 4" in config.read_text()
    assert config.parent.name in printed
    assert run(["bundle", str(bundle), "--triton", str(out)]) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "nothing.pt"], "neither a checkpoint"),
        (["export", "no.such:factory"], "--allow-code"),
        (["export", "x.pt", "--arguments", "[1]"], "is not a JSON object"),
        (["export", "x.pt", "--contract", "floats"], "--contract"),
        (["build", "x.onnx", "--precision", "int8"], "--precision"),
        (["build", "x.onnx", "--batch", "0"], "--batch"),
        (["bundle", "absent", "--triton", "out"], "absent"),
        (["bundle", "."], "--triton"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_wrong_command_lines_write_nothing(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert run(words) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_needs_no_clips_and_prints_json(tmp_path, monkeypatch, capsys):
    import torch
    from safetensors.torch import save_file

    from skd_edge.models.tsm import build_tsm
    from skd_edge.recipe.schema import NetworkSpec

    network = build_tsm(NetworkSpec(name="n", width=4, depths=(1, 1)), classes=3, frames=4, size=16, seed=0)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, tmp_path / "mine.safetensors")
    monkeypatch.chdir(tmp_path)
    words = ["export", "mine.safetensors", "--width", "4", "--depths", "1,1", "--frames", "4", "--size", "16"]
    assert run([*words, "--dry-run", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["bundle"] == "mine-bundle"
    assert "3 classes, clips of 4x16x16; fp32; no clips" in printed["summary"]
    assert (
        f"{sum(p.numel() for p in network.parameters() if isinstance(p, torch.Tensor))} weights" in printed["summary"]
    )
    assert printed["files"] == []
    assert not (tmp_path / "mine-bundle").exists()
