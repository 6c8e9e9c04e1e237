"""The commands for a bundle, on a real one: its ONNX file distinguishes bright videos from dark ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np

from skd_bench.bundle.manifest import Manifest
from skd_edge.cli.main import run


def film(path: Path, level: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_predict(bundle, tmp_path, capsys):
    videos = [tmp_path / "light clip.mp4", tmp_path / "night.mp4"]
    film(videos[0], 230)
    film(videos[1], 20)
    assert run(["predict", str(bundle), *map(str, videos), "--top", "1"]) == 0
    bright, dark = capsys.readouterr().out.splitlines()
    assert bright.startswith(f"{videos[0]}: bright 9")
    assert dark.startswith(f"{videos[1]}: dark 9")


def test_predict_continues_after_an_unreadable_video(bundle, tmp_path, capsys):
    film(tmp_path / "a.mp4", 230)
    (tmp_path / "text.mp4").write_text("no video")
    assert run(["predict", str(bundle), str(tmp_path / "text.mp4"), str(tmp_path / "a.mp4"), "--json"]) == 1
    bad, good = json.loads(capsys.readouterr().out)
    assert "text.mp4" in bad["error"]
    assert good["top"][0][0] == "bright"


def test_accuracy_and_watch(bundle, tmp_path, capsys):
    classes = json.loads((bundle / "manifest.json").read_text())["classes"]
    for name, level in zip(classes, (10, 240), strict=False):
        (tmp_path / "videos" / name).mkdir(parents=True)
        film(tmp_path / "videos" / name / "a.mp4", level)
    assert run(["accuracy", str(bundle), str(tmp_path / "videos"), "--views", "1", "--views", "2", "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["videos"] == 2
    assert {row["views"] for row in scored["rows"]} == {1, 2}
    video = tmp_path / "videos" / classes[0] / "a.mp4"
    assert run(["watch", str(bundle), str(video), "--window", "0.2", "--hop", "0.1"]) == 0
    assert "real-time factor" in capsys.readouterr().out
    assert run(["watch", str(bundle), str(video), "--window", "0.2", "--hop", "0"]) == 1
    assert run(["accuracy", str(bundle), str(video), "--class", "x"]) == 1
    capsys.readouterr()


def test_verify(bundle, capsys):
    assert run(["verify", str(bundle)]) == 0
    assert "ok" in capsys.readouterr().out
    with (bundle / "tiny.onnx").open("ab") as file:
        file.write(b"x")
    assert run(["verify", str(bundle)]) == 1
    assert "tiny.onnx" in capsys.readouterr().err


def test_bench(bundle, capsys):
    words = ["bench", str(bundle), "--processes", "1", "--queries", "70"]
    assert run([*words, "--json"]) == 0
    (artefact,) = json.loads(capsys.readouterr().out)["artefacts"]
    assert artefact["latency"]["p50_ms"] > 0
    assert artefact["latency"]["n"] >= 70


def test_verify_and_predict_work_without_torch(bundle, tmp_path):
    film(tmp_path / "a.mp4", 230)
    block = "import sys\nfor m in ('torch', 'onnx', 'sklearn', 'pydantic'): sys.modules[m] = None\n"
    code = block + "from skd_edge.cli.main import main; main()"
    for words in (["verify", bundle], ["predict", bundle, tmp_path / "a.mp4"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_verify_of_a_folder_that_is_not_a_bundle(tmp_path, capsys):
    assert run(["verify", str(tmp_path)]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_predict_states_how_sure_it_is_and_none_of_these(bundle, tmp_path, capsys):
    film(tmp_path / "grey.mp4", 140)
    manifest = Manifest.load(bundle)
    options = {"temperature": 2.0, "reject": {"threshold": 0.99, "background": None}}
    replace(manifest, artefacts=[replace(manifest.artefacts[0], options=options)]).save(bundle)
    assert run(["predict", str(bundle), str(tmp_path / "grey.mp4")]) == 0
    assert re.search(
        r"grey\.mp4: none of these \(bright .*; right with a probability of \d\d%\)", capsys.readouterr().out
    )


def test_predict_and_accuracy_read_folders_of_pictures(bundle, tmp_path, capsys):
    for name, level in (("bright", 230), ("dark", 20)):
        film(tmp_path / "film.mp4", level)
        with av.open(str(tmp_path / "film.mp4")) as container:
            for i, frame in enumerate(container.decode(video=0)):
                (tmp_path / "v" / name / "clip").mkdir(parents=True, exist_ok=True)
                frame.save(tmp_path / "v" / name / "clip" / f"{i}.png")
    assert run(["predict", str(bundle), str(tmp_path / "v/dark/clip"), "--top", "1"]) == 0
    assert "clip: dark 9" in capsys.readouterr().out
    assert run(["predict", str(bundle), str(tmp_path / "v"), "--top", "1"]) == 0  # a folder of clips
    assert [line.rpartition("/")[2].split()[1] for line in capsys.readouterr().out.splitlines()] == ["bright", "dark"]
    assert run(["accuracy", str(bundle), str(tmp_path / "v"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["videos"], result["rows"][0]["accuracy"]["top1"]["value"]) == (2, 1.0)


def test_a_name_that_is_not_utf8_is_printed_and_comes_back_from_json(bundle, tmp_path, capsys):
    film(tmp_path / "a.mp4", 230)
    odd = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    os.rename(tmp_path / "a.mp4", odd)
    assert run(["predict", str(bundle), os.fsdecode(odd), "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert os.fsencode(result["video"]) == odd
    words = [sys.executable, "-m", "skd_edge.cli", "predict", str(bundle), odd]
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(words, capture_output=True, check=False, env=strict)
    assert (done.returncode, b"caf\\udce9.mp4: bright 9" in done.stdout) == (0, True), done
