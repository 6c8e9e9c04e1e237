"""Existing models as annotators: a table of probabilities, a bundle, or an ONNX file.

::

    labels:
      models:
        - {name: clip-zero-shot, table: probabilities.csv, at_least: 0.4}   # clip,<class>,<class>,...
        - {name: last-year, bundle: runs/last/bundle, at_least: 0.6}
        - {name: vendor, onnx: vendor.onnx, classes: [jump, wave]}

A vote is the class with the highest probability. The model abstains if this probability is below ``at_least``, if the
class is not a class of the data, and on clips that are missing from its table or unreadable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skd_bench.bundle.manifest import Manifest
from skd_bench.bundle.onnx_file import find_onnx_problem
from skd_bench.errors import UserError
from skd_bench.inference.predict import find_runnable_file
from skd_bench.listing.class_names import normalise_class_name
from skd_bench.metrics.accuracy import softmax
from skd_bench.runtimes import InferenceSession, find_runtime
from skd_bench.video.clip import decode_clip, prepare_input
from skd_bench.video.types import ClipError, Preprocessing, Sampling
from skd_edge.data.csv_files import read_sheet
from skd_edge.data.sources.registry import ClipEntry
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
    """Compute a model's votes.

    Args:
        annotator: the model, as the recipe names it.
        entries: the N clips.
        classes: classes of the data.
        preprocessing: how the recipe samples and preprocesses clips; used for an ONNX file. A bundle brings its own.
        progress: called with (done, total) while a model runs.

    Returns:
        N class names, empty for an abstention.

    Raises:
        UserError: A file cannot be read, is not a table of probabilities, reads other files, does not fit the clips, or
            names none of the classes of the data.
    """
    if annotator.table is not None:
        known, names = _read_probability_table(annotator.table)
        probabilities = [known.get(e.name) for e in entries]
    else:
        names, probabilities = _run_model(annotator, entries, tuple(classes), preprocessing, progress)
    if not set(names) & set(classes):
        raise UserError(
            f"the model {annotator.name!r} of labels.models has none of the data's classes ({', '.join(classes)}), but "
            f"{', '.join(names)}; rename its classes"
        )
    return ["" if p is None else _choose_vote(p, names, classes, annotator.at_least) for p in probabilities]


def _choose_vote(p: Floats, names: Sequence[str], classes: Sequence[str], at_least: float) -> str:
    best = int(p.argmax())
    return names[best] if p[best] >= at_least and names[best] in classes else ""


def _read_probability_table(path: Path) -> tuple[dict[str, Floats], tuple[str, ...]]:
    """Probabilities ``(C,)`` by clip, and the C classes in the order of the columns; empty rows are left out."""
    known: dict[str, Floats] = {}
    columns: tuple[str, ...] = ()
    for line, row in read_sheet(path, ["clip"]):
        columns = columns or tuple(c for c in row if c != "clip")
        if row["clip"] in known:
            raise UserError(f"{path}:{line}: {row['clip']} has a second row here; keep one row for each clip")
        if any(row[c].strip() for c in columns):
            known[row["clip"]] = _parse_probabilities(row, columns, f"{path}:{line}")
    if not columns:
        raise UserError(f"{path} contains no probabilities; it needs rows, a column 'clip' and a column for each class")
    return known, tuple(map(normalise_class_name, columns))


def _parse_probabilities(row: dict[str, str], names: Sequence[str], at: str) -> Floats:
    try:
        p = np.array([float(row[c]) for c in names])
    except ValueError:
        raise UserError(f"{at}: give each class a probability, a number from 0 to 1") from None
    if not (np.isfinite(p).all() and p.min() >= 0 and p.max() <= 1):
        raise UserError(f"{at}: probabilities must be numbers from 0 to 1; apply a softmax to logits first")
    return p


def _run_model(
    annotator: ModelAnnotator,
    entries: Sequence[ClipEntry],
    classes: tuple[str, ...],
    preprocessing: tuple[Sampling, Preprocessing],
    progress: Progress | None,
) -> tuple[tuple[str, ...], list[Floats | None]]:
    """Run a bundle or an ONNX file: its C class names, and for each clip probabilities ``(C,)``, None if unreadable."""
    names, path, kind, (sampling, preprocess) = _resolve_model_file(annotator, classes, preprocessing)
    session = find_runtime(kind).load(path, threads=1)
    probabilities: list[Floats | None] = []
    try:
        size = (preprocess.height, preprocess.width)
        is_float = session.input.dtype == "float32"
        shape = (3, sampling.frames, *size) if is_float else (sampling.frames, *size, 3)
        if any(have not in (None, want) for have, want in zip(session.input.shape[1:], shape, strict=False)):
            raise UserError(
                f"{path} takes input of shape {session.input.shape}, but the recipe's clips have shape {shape}; change "
                "clip.frames and clip.size, or remove the model from labels.models"
            )
        for done, entry in enumerate(entries, 1):
            probabilities.append(_predict_clip(session, entry, sampling, preprocess))
            if probabilities[-1] is not None and len(probabilities[-1]) != len(names):
                raise UserError(
                    f"{path} returns {len(probabilities[-1])} logits, but {len(names)} classes are given; list the "
                    "classes of the model in labels.models"
                )
            if progress:
                progress(done, len(entries))
    finally:
        session.close()
    return names, probabilities


def _predict_clip(
    session: InferenceSession, entry: ClipEntry, sampling: Sampling, preprocess: Preprocessing
) -> Floats | None:
    """Class probabilities ``(C,)`` of a clip; None if it is unreadable or a logit is not finite."""
    try:
        clip = decode_clip(entry.path, sampling, preprocess, entry.span)
    except ClipError:
        return None
    logits = session.run(prepare_input(clip[np.newaxis], preprocess, session.input.dtype))
    return softmax(logits)[0] if np.isfinite(logits).all() else None


def _resolve_model_file(
    annotator: ModelAnnotator, classes: tuple[str, ...], preprocessing: tuple[Sampling, Preprocessing]
) -> tuple[tuple[str, ...], Path, str, tuple[Sampling, Preprocessing]]:
    """The model's class names, its file, its runtime, and the sampling and preprocessing of its input."""
    if annotator.onnx is not None:
        if not annotator.onnx.is_file():
            raise UserError(f"labels.models: {annotator.onnx} does not exist; check onnx of {annotator.name!r}")
        if problem := find_onnx_problem(annotator.onnx):
            raise UserError(f"labels.models: {annotator.onnx} {problem}")
        return annotator.classes or classes, annotator.onnx, "ort", preprocessing
    assert annotator.bundle is not None
    manifest = Manifest.load(annotator.bundle)
    artefact = manifest.find_artefact()
    return (
        tuple(map(normalise_class_name, manifest.classes)),
        find_runnable_file(annotator.bundle, artefact),
        artefact.runtime,
        (manifest.sampling, manifest.preprocess),
    )
