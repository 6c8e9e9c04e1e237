"""Scores a file in a process of its own: `python -m skd_bench.benchmark.engines.score_worker JOB.json RESULT.json`.

The clips are a ``.npy`` file, uint8 ``(N, T, H, W, 3)``; the logits are written as one, float32 ``(N, C)``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from skd_bench.benchmark.worker_program import run_worker_program
from skd_bench.device.child_process import end_with_parent
from skd_bench.metrics.accuracy import compute_logits
from skd_bench.runtimes import find_runtime
from skd_bench.typed_json import parse_typed_json
from skd_bench.video.types import Preprocessing

_BATCH = 50


class ScoreJob(TypedDict):
    """The file and its runtime, the clips and their preprocessing as a JSON object, and where the logits go."""

    path: str
    runtime: str
    threads: int
    clips: str
    preprocess: dict[str, Any]
    logits: str


class ScoredClips(TypedDict):
    """How many clips were scored."""

    clips: int


def score_clips(job: ScoreJob) -> ScoredClips:
    """Run a file on all clips and write its logits.

    Raises:
        UserError: The runtime cannot run the file, or a logit is not finite.
    """
    clips = np.load(job["clips"], mmap_mode="r", allow_pickle=False)
    preprocess: Preprocessing = parse_typed_json(Preprocessing, job["preprocess"], "preprocess")
    session = find_runtime(job["runtime"]).load(Path(job["path"]), threads=job["threads"])
    try:
        batches = (np.asarray(clips[i : i + _BATCH]) for i in range(0, len(clips), _BATCH))
        np.save(job["logits"], compute_logits(session, batches, preprocess), allow_pickle=False)
    finally:
        session.close()
    return {"clips": len(clips)}


if __name__ == "__main__":
    end_with_parent()
    sys.exit(run_worker_program(score_clips, sys.argv[1:]))
