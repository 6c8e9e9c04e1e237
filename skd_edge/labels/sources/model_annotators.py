"""Models made elsewhere as voters: a table of probabilities, a bundle, or an ONNX file.

::

    labels:
      models:
        - {name: clip-zero-shot, table: probabilities.csv, at_least: 0.4}   # clip,<class>,<class>,...
        - {name: last-year, bundle: runs/last/bundle, at_least: 0.6}
        - {name: vendor, onnx: vendor.onnx, classes: [jump, wave]}

A vote is the class with the highest probability; the model abstains below ``at_least``, where that class is none of
the data's, and on a clip that it does not know or cannot read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skd_bench.bundle.manifest import Manifest, resolve_bundle_path
from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.metrics.accuracy import softmax
from skd_bench.runtimes import InferenceSession, find_runtime
from skd_bench.video.clip import decode_clip, prepare_input
from skd_bench.video.types import ClipError, Preprocessing, Sampling
from skd_edge.data.sources.registry import ClipEntry
from skd_edge.labels.csv_files import read_sheet
from skd_edge.recipe.labels import ModelAnnotator

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]


def model_votes(
    annotator: ModelAnnotator,
    entries: Sequence[ClipEntry],
    classes: Sequence[str],
    preprocessing: tuple[Sampling, Preprocessing],
    *,
    progress: Progress | None = None,
) -> list[str]:
    """One model's vote on each clip, empty for an abstention.

    Args:
        annotator: of the recipe.
        entries: N clips.
        classes: of the data.
        preprocessing: how the recipe samples and prepares clips; an ONNX file sees them so, a bundle as it asks itself.
        progress: called with (done, total) while a model runs.

    Raises:
        UserError: A file cannot be read, is no table of probabilities, or names none of the data's classes.
    """
    if annotator.table is not None:
        known, names = _read_probability_table(annotator.table)
        probabilities = [known.get(e.name) for e in entries]
    else:
        names, probabilities = _run_model(annotator, entries, tuple(classes), preprocessing, progress)
    if not set(names) & set(classes):
        raise UserError(
            f"the model {annotator.name!r} of labels.models names none of the data's classes ({', '.join(classes)}); its "
            f"own are: {', '.join(names)}"
        )
    return ["" if p is None else _choose_vote(p, names, classes, annotator.at_least) for p in probabilities]


def _choose_vote(p: Floats, names: Sequence[str], classes: Sequence[str], at_least: float) -> str:
    best = int(p.argmax())
    return names[best] if p[best] >= at_least and names[best] in classes else ""


def _read_probability_table(path: Path) -> tuple[dict[str, Floats], tuple[str, ...]]:
    """Probabilities by clip, and the classes in the order of the columns; a row of empty cells abstains."""
    known: dict[str, Floats] = {}
    names: tuple[str, ...] = ()
    for line, row in read_sheet(path, ["clip"]):
        names = names or tuple(c for c in row if c != "clip")
        if row["clip"] in known:
            raise UserError(f"{path}:{line}: {row['clip']} stands here for the second time; one row a clip")
        if any(row[c].strip() for c in names):
            known[row["clip"]] = _parse_probabilities(row, names, f"{path}:{line}")
    if not names:
        raise UserError(f"{path} holds no probabilities; it needs a column 'clip' and one for each class, and rows")
    return known, names


def _parse_probabilities(row: dict[str, str], names: Sequence[str], at: str) -> Floats:
    try:
        p = np.array([float(row[c]) for c in names])
    except ValueError:
        raise UserError(f"{at}: each class needs a probability, a number from 0 to 1") from None
    if not (np.isfinite(p).all() and p.min() >= 0 and p.max() <= 1):
        raise UserError(f"{at}: probabilities are numbers from 0 to 1; logits must go through a softmax first")
    return p


def _run_model(
    annotator: ModelAnnotator,
    entries: Sequence[ClipEntry],
    classes: tuple[str, ...],
    preprocessing: tuple[Sampling, Preprocessing],
    progress: Progress | None,
) -> tuple[tuple[str, ...], list[Floats | None]]:
    """The file's probabilities of each clip, decoded as the file wants it; None for a clip that cannot be read."""
    names, path, kind, (sampling, preprocess) = _resolve_model_file(annotator, classes, preprocessing)
    session = find_runtime(kind).load(path, threads=1)
    probabilities: list[Floats | None] = []
    try:
        size = (preprocess.height, preprocess.width)
        floats = session.input.dtype == "float32"
        wants = (3, sampling.frames, *size) if floats else (sampling.frames, *size, 3)
        if any(have not in (None, want) for have, want in zip(session.input.shape[1:], wants, strict=False)):
            raise UserError(f"{path} takes {session.input.shape}, and labels.models gives it clips of {wants}")
        for done, entry in enumerate(entries, 1):
            probabilities.append(_predict_clip(session, entry, sampling, preprocess))
            if probabilities[-1] is not None and len(probabilities[-1]) != len(names):
                raise UserError(
                    f"{path} answers {len(probabilities[-1])} logits for {len(names)} classes; name its classes"
                )
            if progress:
                progress(done, len(entries))
    finally:
        session.close()
    return names, probabilities


def _predict_clip(
    session: InferenceSession, entry: ClipEntry, sampling: Sampling, preprocess: Preprocessing
) -> Floats | None:
    try:
        clip = decode_clip(entry.path, sampling, preprocess, entry.span)
    except ClipError:
        return None
    logits = session.run(prepare_input(clip[np.newaxis], preprocess, session.input.dtype))
    return softmax(logits)[0] if np.isfinite(logits).all() else None


def _resolve_model_file(
    annotator: ModelAnnotator, classes: tuple[str, ...], preprocessing: tuple[Sampling, Preprocessing]
) -> tuple[tuple[str, ...], Path, str, tuple[Sampling, Preprocessing]]:
    """Class names, the file, its runtime, and how it wants its clips."""
    if annotator.onnx is not None:
        if not annotator.onnx.is_file():
            raise UserError(f"labels.models: {annotator.onnx} does not exist; check the path of {annotator.name!r}")
        return annotator.classes or classes, annotator.onnx, "ort", preprocessing
    assert annotator.bundle is not None
    manifest = Manifest.load(annotator.bundle)
    artefact = manifest.find_artefact()
    path = resolve_bundle_path(annotator.bundle, artefact.file)
    if sha256_file(path) != artefact.sha256:
        raise UserError(f"{path} is not the file that its manifest describes (other sha256); copy the bundle again")
    return tuple(manifest.classes), path, artefact.runtime, (manifest.sampling, manifest.preprocess)
