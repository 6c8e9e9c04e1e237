"""Accuracy of a bundle's model files on labelled videos, with one view (as deployed) or several."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from skd_bench.bundle.manifest import Manifest
from skd_bench.device.info import DeviceInfo, device_id, read_device_info
from skd_bench.errors import UserError
from skd_bench.evaluation.labelled_videos import LabelledVideo, load_labelled_videos
from skd_bench.inference.predict import check_matches_manifest, load_artefact
from skd_bench.listing.folder_walk import LeftOut
from skd_bench.metrics.accuracy import AccuracyFigures, compute_accuracy, softmax
from skd_bench.metrics.agreement import Agreement, compute_agreement
from skd_bench.metrics.reject_metrics import RejectMetrics, compute_reject_metrics
from skd_bench.runtimes import InferenceSession, why_runtime_unavailable
from skd_bench.video.clip import prepare_input
from skd_bench.video.multi_view import average_view_logits, decode_views
from skd_bench.video.types import ClipError

SCHEMA = 1


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings for an evaluation.

    Attributes:
        views: Numbers of views to average over, with a row for each; 1 is the deployed sampling.
        reject: Probability below which no class is reported; None: without reject metrics.
        named: Classes whose recall is reported at `reject`; empty: all classes.
        threads: Number of threads for one query.
    """

    views: Sequence[int] = (1,)
    reject: float | None = None
    named: Sequence[str] = ()
    threads: int = 1


class VideoCost(TypedDict):
    """Median milliseconds for one video, all views together."""

    decode_ms: float
    preprocess_ms: float
    infer_ms: float


class EvaluatedFile(TypedDict):
    """One file with one number of views, as a JSON object.

    `against_fp32` is None for an FP32 file, or if the student has no FP32 file; `against_one_view` is None for one
    view; `rejecting` is None without reject metrics.
    """

    file: str
    default: bool
    precision: str
    student: str
    path: list[str]
    views: int
    accuracy: AccuracyFigures
    against_fp32: Agreement | None
    against_one_view: Agreement | None
    rejecting: RejectMetrics | None
    cost: VideoCost


class UnreadableVideo(TypedDict):
    """A video that could not be read, and why."""

    path: str
    reason: str


class EvaluationResult(TypedDict):
    """The accuracy of a bundle's files, as a JSON object.

    `kind` is "accuracy"; `videos` is the number of evaluated videos; `left_out` states what else the folder holds
    (empty: nothing); `not_run` has the files whose runtime is not available, with the reason.
    """

    schema: int
    kind: str
    bundle: str
    name: str
    classes: list[str]
    device: DeviceInfo
    device_id: str
    videos: int
    unreadable: list[UnreadableVideo]
    left_out: str
    not_run: dict[str, str | None]
    rows: list[EvaluatedFile]


@dataclass
class _EvaluationRow:
    """One file with one number of views, while it is evaluated.

    Attributes:
        file: File of the artefact.
        precision: Of the artefact.
        student: Of the artefact.
        path: Cascade of the artefact.
        views: Number of views.
        session: The loaded file.
        answers: Logits (C,) of each video; with several views, the logarithm of the mean probability.
        infer_ms: Milliseconds of inference for each video, all views together.
    """

    file: str
    precision: str
    student: str
    path: list[str]
    views: int
    session: InferenceSession
    answers: list[npt.NDArray[np.float64]] = field(default_factory=list)
    infer_ms: list[float] = field(default_factory=list)


def evaluate(
    bundle: Path | str,
    videos: Path | str,
    settings: EvaluationSettings | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Evaluate every file of a bundle on labelled videos, with the decoder and the runtime of the deployment.

    Args:
        bundle: The bundle's folder.
        videos: A folder or a CSV file, see `load_labelled_videos`.
        settings: Views, reject option and threads; None for the defaults.
        progress: Called with (number of videos done, number of videos).

    Raises:
        UserError: The bundle or the list of videos cannot be used, or no video can be read.
    """
    settings = settings or EvaluationSettings()
    manifest = Manifest.load(bundle)
    if settings.reject is not None:  # refuse a wrong threshold or class before the long measurement
        logits = np.zeros((1, len(manifest.classes)))
        compute_reject_metrics(logits, [0], manifest.classes, settings.reject, named=settings.named)
    left_out = LeftOut()
    labelled = load_labelled_videos(videos, manifest.classes, left_out)
    counts = sorted(set(settings.views))
    default = manifest.default
    reasons = {a.file: why_runtime_unavailable(a.runtime, a.precision) for a in manifest.artefacts}
    runnable = [a for a in manifest.artefacts if a.file == default or reasons[a.file] is None]
    sessions = {a.file: load_artefact(bundle, a, threads=settings.threads) for a in runnable}
    try:
        for session in sessions.values():
            check_matches_manifest(manifest, session)
        rows = [
            _EvaluationRow(a.file, a.precision, a.student, a.path, v, sessions[a.file])
            for v in counts
            for a in runnable
        ]
        read, unreadable, times_ms = _predict_videos(rows, labelled, manifest, counts, progress)
    finally:
        for session in sessions.values():
            session.close()
    if not read:
        raise UserError(f"no video in {videos} can be read; reason for the first: {unreadable[0]['reason']}")
    device_info = read_device_info()
    return {
        "schema": SCHEMA,
        "kind": "accuracy",
        "bundle": str(bundle),
        "name": manifest.name,
        "classes": manifest.classes,
        "device": device_info,
        "device_id": device_id(device_info),
        "videos": len(read),
        "unreadable": unreadable,
        "left_out": left_out.to_text(),
        "not_run": {a.file: reasons[a.file] for a in manifest.artefacts if a not in runnable},
        "rows": [_score_row(row, rows, read, manifest, times_ms[row.views], settings) for row in rows],
    }


def _predict_videos(
    rows: list[_EvaluationRow],
    videos: Sequence[LabelledVideo],
    manifest: Manifest,
    counts: Sequence[int],
    progress: Callable[[int, int], None] | None,
) -> tuple[list[LabelledVideo], list[UnreadableVideo], dict[int, list[tuple[float, float]]]]:
    """Run every file on every video; a video is decoded once for each number of views.

    Returns:
        The videos that were read, the unreadable ones, and by number of views the milliseconds (decode, preprocess) of
        each video.
    """
    read: list[LabelledVideo] = []
    unreadable: list[UnreadableVideo] = []
    times_ms: dict[int, list[tuple[float, float]]] = {v: [] for v in counts}
    clock = time.perf_counter
    for done, video in enumerate(videos):
        if progress:
            progress(done, len(videos))
        prepared = {}
        try:
            for v in counts:
                begin = clock()
                clips = decode_views(video.path, manifest.sampling, manifest.preprocess, v)
                decoded = clock()
                prepared[v] = prepare_input(clips, manifest.preprocess, manifest.input_dtype)
                times_ms[v].append((1000 * (decoded - begin), 1000 * (clock() - decoded)))
        except ClipError as error:
            unreadable.append({"path": str(video.path), "reason": error.reason})
            continue
        for row in rows:
            begin = clock()
            answers = np.concatenate([row.session.run(prepared[row.views][i : i + 1]) for i in range(row.views)])
            row.infer_ms.append(1000 * (clock() - begin))
            if not np.isfinite(answers).all():
                raise UserError(
                    f"the output of {row.file} for {video.path} contains NaN or infinity; leave out this precision"
                )
            row.answers.append(
                answers[0].astype(np.float64) if row.views == 1 else average_view_logits(softmax(answers))
            )
        read.append(video)
    if progress:
        progress(len(videos), len(videos))
    return read, unreadable, times_ms


def _score_row(
    row: _EvaluationRow,
    rows: Sequence[_EvaluationRow],
    videos: Sequence[LabelledVideo],
    manifest: Manifest,
    times_ms: Sequence[tuple[float, float]],
    settings: EvaluationSettings,
) -> EvaluatedFile:
    labels, groups = [v.label for v in videos], [v.group for v in videos]
    logits = np.stack(row.answers)
    same_student = [r for r in rows if r.student == row.student]
    fp32 = next((r for r in same_student if r.views == row.views and r.precision == "fp32" and r is not row), None)
    single = next((r for r in rows if r.file == row.file and r.views == 1 and r is not row), None)
    reference = None if row.precision == "fp32" else fp32
    against_fp32 = compute_agreement(logits, np.stack(reference.answers), labels, groups) if reference else None
    against_one_view = compute_agreement(logits, np.stack(single.answers), labels, groups) if single else None
    rejecting = None
    if settings.reject is not None:
        rejecting = compute_reject_metrics(
            logits, labels, manifest.classes, settings.reject, named=settings.named, groups=groups
        )
    decode, prepare = np.median(np.asarray(times_ms), axis=0).tolist()
    return {
        "file": row.file,
        "default": row.file == manifest.default,
        "precision": row.precision,
        "student": row.student,
        "path": row.path,
        "views": row.views,
        "accuracy": compute_accuracy(logits, labels, manifest.classes, groups).to_json(),
        "against_fp32": against_fp32,
        "against_one_view": against_one_view,
        "rejecting": rejecting,
        "cost": {"decode_ms": decode, "preprocess_ms": prepare, "infer_ms": float(np.median(row.infer_ms))},
    }
