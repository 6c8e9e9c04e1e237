"""Videos in, classes out, with a bundle and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skd_bench.bundle.manifest import Artefact, Manifest, resolve_bundle_path
from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.inference.reject_option import RejectOption
from skd_bench.metrics.accuracy import softmax
from skd_bench.runtimes import InferenceSession, find_runtime
from skd_bench.video.clip import decode_clip, prepare_input


def predict(
    bundle: Path | str,
    videos: Iterable[Path | str],
    *,
    top: int = 5,
    artefact: str | None = None,
    threads: int = 1,
) -> list[dict[str, Any]]:
    """Classify videos; one that cannot be read gets an error of its own, and the others go on.

    Args:
        bundle: The bundle's folder.
        videos: Files that FFmpeg can read.
        top: How many classes to name for each, best first; at least 1.
        artefact: The file of the bundle to use; None for its default.
        threads: Threads a query may use.

    Returns:
        An entry for each video, in order: `video` (the path as given), and either `top` (a list of (class,
        probability)) with `milliseconds` (`decode`: from the file to sampled and fitted frames, `preprocess`,
        `infer`), or `error` (one sentence). Where the artefact has a reject threshold, also `answer`: the class, or
        for an unsure clip the background class (None without one).

    Raises:
        UserError: The bundle, the artefact or the runtime cannot be used; nothing was classified.
    """
    if top < 1:
        raise UserError(f"at least 1 class is named for each video, not {top}")
    manifest = Manifest.load(bundle)
    chosen = manifest.find_artefact(artefact)
    reject = RejectOption.from_options(chosen.options, manifest.classes)
    session = load_artefact(bundle, chosen, threads=threads)
    try:
        check_matches_manifest(manifest, session)
        return [_classify_video(session, manifest, video, top, reject) for video in videos]
    finally:
        session.close()


def load_artefact(bundle: Path | str, artefact: Artefact, *, threads: int) -> InferenceSession:
    """Load one file of a bundle, after a look at its hash.

    Raises:
        UserError: The file is missing, is not the one that was written, or its runtime cannot be used.
    """
    path = resolve_bundle_path(bundle, artefact.file)
    if sha256_file(path) != artefact.sha256:
        raise UserError(f"{path} is not the file that its manifest describes (other sha256); copy the bundle again")
    return find_runtime(artefact.runtime).load(path, threads=threads)


def check_matches_manifest(manifest: Manifest, session: InferenceSession) -> None:
    """Refuse a network whose input or output is not what the manifest says.

    Raises:
        UserError: Frames, size or classes differ.
    """
    frames, size = manifest.sampling.frames, (manifest.preprocess.height, manifest.preprocess.width)
    floats = manifest.contract == "float_clip"
    dtype, clip = ("float32", (3, frames, *size)) if floats else ("uint8", (frames, *size, 3))
    if session.input.dtype != dtype or any(
        actual not in (None, expected) for actual, expected in zip(session.input.shape[1:], clip, strict=False)
    ):
        actual_input = f"{session.input.dtype} {session.input.shape}"
        raise UserError(
            f"the network takes {actual_input}; the manifest says {dtype} (batch, {', '.join(map(str, clip))})"
        )
    if session.output.shape[1] not in (None, len(manifest.classes)):
        raise UserError(f"the network has {session.output.shape[1]} classes and the manifest {len(manifest.classes)}")


def _classify_video(
    session: InferenceSession, manifest: Manifest, video: Path | str, top: int, reject: RejectOption | None
) -> dict[str, Any]:
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
            raise UserError(f"the network's answer to {video} holds NaN or an infinity; the artefact is broken")
    except UserError as error:
        return {"video": str(video), "error": str(error)}
    shares = softmax(logits)[0]
    best = np.argsort(-shares, kind="stable")[:top]
    spent = (1000 * np.diff(times)).round(3).tolist()
    return {
        "video": str(video),
        "top": [(manifest.classes[i], float(shares[i])) for i in best],
        "milliseconds": dict(zip(("decode", "preprocess", "infer"), spent, strict=True)),
        **({} if reject is None else {"answer": _choose_answer(shares, manifest.classes, reject)}),
    }


def _choose_answer(shares: NDArray[np.float64], classes: list[str], reject: RejectOption) -> str | None:
    return classes[int(shares.argmax())] if shares.max() >= reject.threshold else reject.background
