"""Analysis of long videos with sliding windows: the events in them, and the time of each processing stage."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, final

import numpy as np
import numpy.typing as npt

from skd_bench.bundle.manifest import Manifest, resolve_bundle_path
from skd_bench.device.info import DeviceInfo, DeviceState, device_id, read_device_info, read_device_state
from skd_bench.errors import UserError
from skd_bench.inference.predict import VideoError, check_matches_manifest, load_artefact
from skd_bench.metrics.accuracy import softmax
from skd_bench.metrics.event_metrics import EventMetrics, VideoEvent, match_events, read_events
from skd_bench.runtimes import InferenceSession
from skd_bench.video.clip import prepare_input
from skd_bench.video.container import open_container
from skd_bench.video.sliding_window import SlidingWindows, Stopwatch, WindowSpacing
from skd_bench.video.stream.pictures import find_video_stream
from skd_bench.video.types import ClipError

SCHEMA = 1
# What a video raises whose header declares impossible times, rates or sizes, wherever these are used.
_BROKEN_VIDEO_ERRORS = (ArithmeticError, LookupError, MemoryError, OSError, TypeError, ValueError)
STAGES = ("decode", "sample", "preprocess", "infer", "smooth")

DetectedEvent = TypedDict("DetectedEvent", {"class": str, "start": float, "end": float, "probability": float})


class StageTimes(TypedDict):
    """The work on a number of seconds of video.

    `stages` has the seconds of work by stage, `shares` their shares (sum 1), and `real_time_factor` is seconds of work
    per second of video; below 1 is fast enough for a camera.
    """

    seconds: float
    stages: dict[str, float]
    shares: dict[str, float]
    real_time_factor: float


@final
class VideoAnalysis(StageTimes):
    """The analysis of one video, as a JSON object.

    `answers` is the number of predictions, `window` the length of a window in seconds, and `answer_ms` the median time
    from the sampled frames to the smoothed prediction.
    """

    video: str
    frames: int
    answers: int
    window: float
    answer_ms: float
    events: list[DetectedEvent]


class AnalysisResult(TypedDict):
    """The analysis of videos, as a JSON object.

    `kind` is "watch"; `after` is the state of the device after the analysis; `total` sums over all videos; `alarms` is
    None where there are no true events to compare with.
    """

    schema: int
    kind: str
    bundle: str
    name: str
    file: str
    device: DeviceInfo
    device_id: str
    after: DeviceState
    threads: int
    hop: float
    smooth: int
    threshold: float
    videos: list[VideoAnalysis | VideoError]
    total: StageTimes
    alarms: EventMetrics | None


@dataclass(frozen=True)
class VideoAnalysisSettings:
    """Settings for the analysis of a long video.

    Attributes:
        window: Length of one window in seconds, above 0; None: the length of a dense clip at the frame rate of the
            video, or the median length of the training clips, or of the bundle's sample clips.
        hop: Time between two predictions in seconds, above 0.
        smooth: Number of predictions whose probabilities are averaged, at least 1.
        threshold: Probability from which a class is reported, 0..1.
        background: Classes that are not events.

    Raises:
        UserError: A value is out of range.
    """

    window: float | None = None
    hop: float = 0.5
    smooth: int = 3
    threshold: float = 0.5
    background: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.window is not None and not 0 < self.window < 3600) or not 0 < self.hop < 3600 or self.smooth < 1:
            raise UserError(f"window and hop must be above 0 s and below 3600 s, and smooth at least 1, not {self}")
        if not 0 <= self.threshold <= 1:
            raise UserError(f"the threshold must be a probability from 0 to 1, not {self.threshold}")


def analyse_videos(
    bundle: Path | str,
    videos: Sequence[Path | str],
    settings: VideoAnalysisSettings | None = None,
    *,
    events: Path | str | None = None,
    artefact: str | None = None,
    threads: int = 1,
) -> AnalysisResult:
    """Analyse videos with a bundle, one after the other, as fast as this machine can.

    Args:
        bundle: The bundle's folder.
        videos: Files that FFmpeg can read.
        settings: Windows, smoothing and threshold; None for the defaults.
        events: CSV file with the true events (see `read_events`); None: reports are not compared with events.
        artefact: File of the artefact to use; None for the bundle's default.
        threads: Number of threads for decoding, and for one query.

    Raises:
        UserError: The bundle or the settings cannot be used, or no video can be read.
    """
    settings = settings or VideoAnalysisSettings()
    manifest = Manifest.load(bundle)
    if unknown := [name for name in settings.background if name not in manifest.classes]:
        raise UserError(f"unknown background class {unknown[0]!r}; choose from {', '.join(manifest.classes)}")
    truth = None if events is None else read_events(events, manifest.classes)
    chosen = manifest.find_artefact(artefact)
    session = load_artefact(bundle, chosen, threads=threads)
    device_info = read_device_info()
    try:
        check_matches_manifest(manifest, session)
        rows = [_analyse_video(session, manifest, bundle, Path(video), settings, threads) for video in videos]
    finally:
        session.close()
    readable = [row for row in rows if "error" not in row]
    if not readable:
        raise UserError(next((row["error"] for row in rows if "error" in row), "no video was given"))
    total = _summarise_stages(
        {stage: sum(r["stages"].get(stage, 0.0) for r in readable) for stage in STAGES},
        sum(r["seconds"] for r in readable),
    )
    return {
        "schema": SCHEMA,
        "kind": "watch",
        "bundle": str(bundle),
        "name": manifest.name,
        "file": chosen.file,
        "device": device_info,
        "device_id": device_id(device_info),
        "after": read_device_state(),
        "threads": threads,
        "hop": settings.hop,
        "smooth": settings.smooth,
        "threshold": settings.threshold,
        "videos": rows,
        "total": total,
        "alarms": None if truth is None else _match_reported_events(readable, truth),
    }


def _analyse_video(
    session: InferenceSession,
    manifest: Manifest,
    bundle: Path | str,
    video: Path,
    settings: VideoAnalysisSettings,
    threads: int,
) -> VideoAnalysis | VideoError:
    stopwatch, answers, answer_ms = Stopwatch(), [], []
    recent: deque[npt.NDArray[np.float64]] = deque(maxlen=settings.smooth)
    try:
        window = settings.window or _find_window_seconds(manifest, bundle, video)
        windows = SlidingWindows(
            video,
            manifest.sampling,
            manifest.preprocess,
            WindowSpacing(window, settings.hop),
            threads=threads,
            stopwatch=stopwatch,
        )
        for start, end, clip in windows:
            first = begin = time.perf_counter()
            x = prepare_input(clip[np.newaxis], manifest.preprocess, manifest.input_dtype)
            begin = stopwatch.add_elapsed("preprocess", begin)
            logits = session.run(x)
            begin = stopwatch.add_elapsed("infer", begin)
            if not np.isfinite(logits).all():
                raise UserError(f"the network's output for {video} at {start:.1f} s contains NaN or infinity")
            recent.append(softmax(logits)[0])
            answers.append((start, end, np.mean(recent, axis=0)))
            answer_ms.append(1000 * (stopwatch.add_elapsed("smooth", begin) - first))
    except ClipError as error:
        return {"video": str(video), "error": str(error)}
    except _BROKEN_VIDEO_ERRORS as error:  # a video whose times or sizes make no sense costs only itself
        return {"video": str(video), "error": f"cannot use {video}: {type(error).__name__}: {error}"}
    if not answers or not windows.seconds > 0:
        return {"video": str(video), "error": f"cannot use {video}: it is shorter than one frame"}
    events: list[DetectedEvent] = [
        {"class": manifest.classes[c], "start": start, "end": end, "probability": share}
        for c, start, end, share in _iter_events(answers, settings, manifest.classes)
    ]
    return {
        "video": str(video),
        "frames": windows.frames,
        "answers": len(answers),
        "window": window,
        **_summarise_stages(stopwatch.seconds, windows.seconds),
        "answer_ms": float(np.median(answer_ms)),
        "events": events,
    }


def _summarise_stages(stages: dict[str, float], seconds: float) -> StageTimes:
    work = sum(stages.values())
    return {
        "seconds": seconds,
        "stages": stages,
        "shares": {stage: spent / work for stage, spent in stages.items()},
        "real_time_factor": work / seconds,
    }


def _iter_events(
    answers: Sequence[tuple[float, float, npt.NDArray[np.float64]]],
    settings: VideoAnalysisSettings,
    classes: Sequence[str],
) -> Iterator[tuple[int, float, float, float]]:
    """Join consecutive predictions of the same reported class to events: class, start, end, largest probability."""
    current: tuple[int, float, float, float] | None = None
    for start, end, shares in answers:
        best = int(shares.argmax())
        share = float(shares[best])
        reported = share >= settings.threshold and classes[best] not in settings.background
        if current is not None and reported and current[0] == best:
            current = (best, current[1], end, max(current[3], share))
            continue
        if current is not None:
            yield current
        current = (best, start, end, share) if reported else None
    if current is not None:
        yield current


def _match_reported_events(rows: Sequence[VideoAnalysis], truth: Sequence[VideoEvent]) -> EventMetrics:
    names = {Path(row["video"]).name for row in rows}
    if unknown := sorted({t.video for t in truth} - names):
        analysed = ", ".join(sorted(names))
        raise UserError(f"the events name the video {unknown[0]!r}, which was not analysed; analysed: {analysed}")
    reported = [
        VideoEvent(Path(row["video"]).name, e["start"], e["end"], e["class"]) for row in rows for e in row["events"]
    ]
    return match_events(reported, truth, sum(row["seconds"] for row in rows) / 3600)


def _find_window_seconds(manifest: Manifest, bundle: Path | str, video: Path) -> float:
    """Length of a clip of this bundle, in seconds.

    Raises:
        UserError: With uniform sampling the length is that of the training clips, and the bundle neither states it nor
            has a sample clip to measure it.
    """
    sampling = manifest.sampling
    if sampling.kind == "dense":
        return ((sampling.frames - 1) * sampling.stride + 1) / _read_duration_and_rate(video)[1]
    if manifest.clip_seconds is not None:
        return manifest.clip_seconds
    if not manifest.samples:
        raise UserError(
            "the bundle samples frames over a whole clip and has no sample clip, so the length of its clips is "
            "unknown; give the length of a training clip in seconds (--window)"
        )
    lengths = [_read_duration_and_rate(resolve_bundle_path(bundle, sample.file))[0] for sample in manifest.samples]
    return float(np.median(lengths))


def _read_duration_and_rate(video: Path) -> tuple[float, float]:
    """Duration in seconds and frames per second, from the header of the file."""
    import av
    from av.error import FFmpegError

    try:
        with open_container(video) as container:
            rate = float(find_video_stream(container).average_rate or 25)
            return float((container.duration or 0) / av.time_base), rate
    except (OSError, FFmpegError, ValueError) as error:
        raise ClipError(video, getattr(error, "strerror", None) or str(error)) from error
