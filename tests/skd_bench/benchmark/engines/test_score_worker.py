"""Logits of clips, computed as a worker computes them."""

import json
from dataclasses import asdict

import numpy as np

from skd_bench.benchmark.engines.score_worker import score_clips
from skd_bench.benchmark.worker_program import run_worker_program
from skd_bench.metrics.accuracy import compute_logits
from skd_bench.runtimes import find_runtime
from skd_bench.video.types import Preprocessing

PREPROCESS = Preprocessing(16, 16, "crop", (0.45, 0.45, 0.45), (0.225, 0.225, 0.225))


def test_logits_of_every_clip_in_order(network, tmp_path, capsys):
    source = network(tmp_path / "net.onnx")
    clips = np.random.default_rng(0).integers(0, 256, (53, 4, 16, 16, 3), np.uint8)
    np.save(tmp_path / "clips.npy", clips)
    job = {
        "path": str(source),
        "runtime": "ort",
        "threads": 1,
        "clips": str(tmp_path / "clips.npy"),
        "preprocess": json.loads(json.dumps(asdict(PREPROCESS))),
        "logits": str(tmp_path / "logits.npy"),
    }
    assert score_clips(job) == {"clips": 53}
    expected = compute_logits(find_runtime("ort").load(source, threads=1), [clips], PREPROCESS)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-5, atol=1e-6)
    (tmp_path / "job.json").write_text(json.dumps(job | {"path": str(tmp_path / "gone.onnx")}))
    assert run_worker_program(score_clips, [str(tmp_path / "job.json"), str(tmp_path / "result.json")]) == 1
    assert "gone.onnx does not exist" in capsys.readouterr().err
