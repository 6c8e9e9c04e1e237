"""Classification of videos with a bundle."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, final

import numpy as np
from numpy.typing import NDArray

from skd_bench.bundle.manifest import Artefact, Manifest, resolve_bundle_path
from skd_bench.bundle.onnx_file import find_onnx_problem
from skd_bench.bundle.verify import ONNX_RUNTIMES
from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.inference.calibrated_confidence import compute_confidence, read_temperature
from skd_bench.inference.reject_option import RejectOption
from skd_bench.metrics.accuracy import softmax
from skd_bench.runtimes import InferenceSession, find_runtime
from skd_bench.runtimes.base import CompileOptions, CompilingRuntime
from skd_bench.runtimes.engine_cache import open_engine_cache
from skd_bench.typed_json import parse_typed_json
from skd_bench.video.clip import decode_clip, prepare_input

# Environment variable: with "1", engines that a bundle holds are loaded. They are code for the GPU, so that a bundle of
# unknown origin must not bring its own.
TRUST_ENGINES = "SKD_EDGE_TRUST_ENGINES"

if TYPE_CHECKING:
    from typing import NotRequired  # Python 3.10, which a pack supports, does not have it


@final
class Prediction(TypedDict):
    """The classes of one video, as a JSON object.

    `video` is the path as given; `top` lists (class, probability), most likely first. `milliseconds` has `decode` (from
    the file to sampled and resized frames), `preprocess` and `infer`. `confidence` is the calibrated probability that
    the most likely class is right, if the artefact has a temperature (see `calibrated_confidence`). If the artefact has
    a reject threshold, `answer` is the class, or for a rejected clip the background class (None if there is none).
    """

    video: str
    top: list[tuple[str, float]]
    milliseconds: dict[str, float]
    confidence: NotRequired[float]
    answer: NotRequired[str | None]


@final
class VideoError(TypedDict):
    """A video that could not be used, and the reason in one sentence."""

    video: str
    error: str


def predict(
    bundle: Path | str,
    videos: Iterable[Path | str],
    *,
    top: int = 5,
    artefact: str | None = None,
    threads: int = 1,
) -> list[Prediction | VideoError]:
    """Classify videos. A video that cannot be read gets an error entry; the other videos are still classified.

    Args:
        bundle: The bundle's folder.
        videos: Files that FFmpeg can read, or folders of pictures.
        top: Number of classes to list for each video, most likely first; at least 1.
        artefact: File of the artefact to use; None for the bundle's default.
        threads: Number of threads for one query.

    Returns:
        An entry for each video, in order.

    Raises:
        UserError: The bundle, the artefact or the runtime cannot be used. No video is classified then.
    """
    if top < 1:
        raise UserError(f"top must be at least 1, not {top}")
    manifest = Manifest.load(bundle)
    chosen = manifest.find_artefact(artefact)
    certainty = _Certainty(
        read_temperature(chosen.options), RejectOption.from_options(chosen.options, manifest.classes)
    )
    session = load_artefact(bundle, chosen, threads=threads)
    try:
        check_matches_manifest(manifest, session)
        return [_classify_video(session, manifest, video, top, certainty) for video in videos]
    finally:
        session.close()


@dataclass(frozen=True)
class _Certainty:
    """How an artefact's certainty is reported: its temperature and its reject option, None where it has none."""

    temperature: float | None
    reject: RejectOption | None


def load_artefact(bundle: Path | str, artefact: Artefact, *, threads: int) -> InferenceSession:
    """Load one model file of a bundle after checking its hash, and that it is all that is read.

    An engine is compiled first (see `find_runnable_file`).

    Raises:
        UserError: The file is missing, was changed or reads other files, or its runtime cannot be used.
    """
    return find_runtime(artefact.runtime).load(find_runnable_file(bundle, artefact), threads=threads)


def find_runnable_file(bundle: Path | str, artefact: Artefact) -> Path:
    """The file that the artefact's runtime loads: the artefact itself, or an engine of it for this device.

    An engine is compiled with the options in the manifest, and stored in the user's cache for the next time. An engine
    that the bundle holds is taken instead where it fits, if the user trusts engines: it is code that runs on the GPU.

    Raises:
        UserError: The file is missing or was changed, or its runtime cannot be used or cannot compile it.
    """
    path = resolve_bundle_path(bundle, artefact.file)
    if sha256_file(path) != artefact.sha256:
        raise UserError(f"{path} is not the file in the manifest (its sha256 differs); copy the bundle again")
    if artefact.runtime in ONNX_RUNTIMES and (problem := find_onnx_problem(path, loops=artefact.runtime == "ort")):
        raise UserError(f"{path} {problem}")
    runtime = find_runtime(artefact.runtime)
    if not isinstance(runtime, CompilingRuntime):
        return path
    if (engine := _find_shipped_engine(Path(bundle), artefact, runtime)) is not None:
        return engine
    try:
        options: CompileOptions = parse_typed_json(CompileOptions, artefact.options.get("build", {}), "options.build")
    except ValueError as error:
        raise UserError(f"the manifest of {bundle} cannot be used: {error}") from error
    return runtime.compile(path, open_engine_cache(), options)


def _find_shipped_engine(bundle: Path, artefact: Artefact, runtime: CompilingRuntime) -> Path | None:
    """An engine in the bundle that fits this machine; None without one, or without the user's trust."""
    if os.environ.get(TRUST_ENGINES) != "1":
        return None
    for engine in artefact.engines:
        path = resolve_bundle_path(bundle, engine.file)
        if engine.runtime != artefact.runtime or not path.is_file():
            continue
        if sha256_file(path) != engine.sha256:
            raise UserError(f"{path} is not the engine in the manifest (its sha256 differs); copy the bundle again")
        if runtime.fits(path):
            return path
    return None


def check_matches_manifest(manifest: Manifest, session: InferenceSession) -> None:
    """Refuse a network whose input or output differs from the manifest.

    Raises:
        UserError: The number of frames, the frame size, the dtype or the number of classes differs.
    """
    frames, size = manifest.sampling.frames, (manifest.preprocess.height, manifest.preprocess.width)
    floats = manifest.contract == "float_clip"
    dtype, clip = ("float32", (3, frames, *size)) if floats else ("uint8", (frames, *size, 3))
    if session.input.dtype != dtype or any(
        actual not in (None, expected) for actual, expected in zip(session.input.shape[1:], clip, strict=False)
    ):
        actual_input = f"{session.input.dtype} {session.input.shape}"
        raise UserError(
            f"the network takes {actual_input}, but the manifest says {dtype} (batch, {', '.join(map(str, clip))}); "
            "export the bundle again"
        )
    if session.output.shape[1] not in (None, len(manifest.classes)):
        raise UserError(
            f"the network has {session.output.shape[1]} classes, but the manifest has {len(manifest.classes)}; export "
            "the bundle again"
        )


def _classify_video(
    session: InferenceSession, manifest: Manifest, video: Path | str, top: int, certainty: _Certainty
) -> Prediction | VideoError:
    clock = time.perf_counter
    times = [clock()]
    try:
        clip = decode_clip(video, manifest.sampling, manifest.preprocess)
        times.append(clock())
        x = prepare_input(clip[np.newaxis], manifest.preprocess, session.input.dtype)
        times.append(clock())
        logits = session.run(x)
        times.append(clock())
        if not np.isfinite(logits).all():
            raise UserError(f"the network's output for {video} contains NaN or infinity; the artefact is damaged")
    except UserError as error:
        return {"video": str(video), "error": str(error)}
    shares = softmax(logits)[0]
    best = np.argsort(-shares, kind="stable")[:top]
    spent = (1000 * np.diff(times)).round(3).tolist()
    prediction: Prediction = {
        "video": str(video),
        "top": [(manifest.classes[i], float(shares[i])) for i in best],
        "milliseconds": dict(zip(("decode", "preprocess", "infer"), spent, strict=True)),
    }
    if certainty.temperature is not None:
        prediction["confidence"] = float(compute_confidence(logits, certainty.temperature)[0])
    if certainty.reject is not None:
        prediction["answer"] = _choose_answer(shares, manifest.classes, certainty.reject)
    return prediction


def _choose_answer(shares: NDArray[np.float64], classes: list[str], reject: RejectOption) -> str | None:
    return classes[int(shares.argmax())] if shares.max() >= reject.threshold else reject.background
