"""Combines all sources of weak labels of a recipe: labels or votes of the data, rules, models."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.integrity.checked_files import DamagedFileError, read_checked_json, report_damage, write_checked_json
from skd_bench.video.types import Preprocessing, Sampling
from skd_edge.data.csv_files import read_sheet
from skd_edge.data.sources.listing import check_classes
from skd_edge.data.sources.registry import ClipEntry, ClipListing
from skd_edge.data.sources.tables import read_training_texts
from skd_edge.data.store.clip_store import format_file_stamp
from skd_edge.labels.sources.keyword_rules import list_metadata_columns, rule_votes
from skd_edge.labels.sources.model_annotators import model_votes
from skd_edge.recipe.data import TableData
from skd_edge.recipe.labels import LabelSettings, ModelAnnotator
from skd_edge.recipe.schema import Recipe

Progress = Callable[[int, int], None]

_VOTES_VERSION = 2  # votes that version 1 stored may be of a file that read another one, which no hash covers


def add_annotators(
    listing: ClipListing,
    recipe: Recipe,
    preprocessing: tuple[Sampling, Preprocessing],
    cache: Path,
    *,
    progress: Progress | None = None,
) -> ClipListing:
    """Add the recipe's rules and models to the annotators of a listing.

    If the data has one label for each clip instead of votes, that label becomes an annotator named ``label``. If the
    data has neither, rules and models are the only annotators.

    Args:
        listing: the clips of the data.
        recipe: its section ``labels`` names the sources.
        preprocessing: how the recipe samples and preprocesses clips, for models.
        cache: the cache folder, where the votes of models are stored.
        progress: called with (done, total) while a model runs.

    Returns:
        The listing with the votes of all annotators; unchanged without external sources.

    Raises:
        UserError: A file of the section cannot be used, a class is unknown, two annotators have the same name, or some
            class has no training clip.
    """
    labels, train = recipe.labels, [e for e in listing.entries if e.split == "train"]
    if not labels.rules and not labels.models:
        if recipe.has_external_labels:
            check_classes(listing)
        return listing
    vote_columns: list[tuple[str, Sequence[str]]] = []
    if listing.annotators:
        vote_columns += zip(listing.annotators, map(list, zip(*(e.votes for e in train), strict=True)), strict=True)
    elif any(e.label for e in train):
        vote_columns.append(("label", [e.label for e in train]))
    if labels.rules:
        _check_known_classes([r.label for r in labels.rules], listing.classes, "labels.rules")
        texts = _read_rule_texts(recipe, list_metadata_columns(labels.rules), {e.name for e in train})
        vote_columns += rule_votes(labels.rules, [e.name for e in train], texts).items()
    for annotator in labels.models:
        vote_columns.append(
            (annotator.name, _load_or_compute_votes(annotator, train, listing.classes, preprocessing, cache, progress))
        )
    names = [name for name, _ in vote_columns]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise UserError(f"two annotators are named {twice[0]!r}; rename the rule's voter or the model")
    votes = zip(*(column for _, column in vote_columns), strict=True)
    entries = tuple(replace(e, label="", votes=next(votes)) if e.split == "train" else e for e in listing.entries)
    listing = replace(listing, entries=entries, annotators=tuple(names))
    check_classes(listing)
    return listing


def resolve_class_prior(labels: LabelSettings, classes: Sequence[str]) -> NDArray[np.float64] | None:
    """The known class shares of a recipe (``labels.prior``).

    Args:
        labels: the recipe's section ``labels``.
        classes: the C classes of the data.

    Returns:
        ``(C,)``, sums to 1; None if the recipe gives no shares.

    Raises:
        UserError: A class is unknown or has no share, or all shares are 0.
    """
    if not labels.prior:
        return None
    _check_known_classes(list(labels.prior), classes, "labels.prior")
    if missing := [c for c in classes if c not in labels.prior]:
        raise UserError(
            f"labels.prior gives no share for class {missing[0]!r}; give every class a share, or remove labels.prior"
        )
    shares = np.array([labels.prior[c] for c in classes])
    if not shares.sum() > 0:
        raise UserError("labels.prior contains only zeros; give each class its share")
    return np.asarray(shares / shares.sum())


# ------------------------------------------------------------------------------------------ parts
def _read_rule_texts(recipe: Recipe, columns: Sequence[str], clips: set[str]) -> dict[str, dict[str, str]]:
    """The texts that rules read: by clip, the cells of the given metadata columns.

    Raises:
        UserError: The recipe has no table with these columns, or it cannot be read.
    """
    if not columns:
        return {}
    rows: Iterable[tuple[str, dict[str, str]]]
    if recipe.labels.metadata is not None:
        sheet = read_sheet(recipe.labels.metadata, ["clip", *columns])
        rows = ((row["clip"], {c: row[c] for c in columns}) for _, row in sheet)
    elif isinstance(recipe.data, TableData):
        rows = read_training_texts(recipe.data, columns)
    else:
        raise UserError(
            f"a rule of labels.rules reads the column {columns[0]!r}, but the recipe names no table; set "
            "labels.metadata to a CSV with this column and a column 'clip', or use 'file' or 'path' in the rule"
        )
    return {name: texts for name, texts in rows if name in clips}


def _load_or_compute_votes(
    annotator: ModelAnnotator,
    train: Sequence[ClipEntry],
    classes: Sequence[str],
    preprocessing: tuple[Sampling, Preprocessing],
    cache: Path,
    progress: Progress | None,
) -> list[str]:
    """A model's votes on the training clips; votes of a bundle or an ONNX file are stored in the cache.

    The name of the cache file is a hash of the model, the clips and the preprocessing.
    """
    if annotator.table is not None:
        return model_votes(annotator, train, classes, preprocessing)
    source = annotator.onnx if annotator.onnx is not None else (annotator.bundle or Path()) / "manifest.json"
    hasher = hashlib.sha256(repr((_VOTES_VERSION, annotator.model_dump(), tuple(classes), preprocessing)).encode())
    hasher.update(sha256_file(source).encode() if source.is_file() else b"")
    for entry in train:
        file_stamp = f"{entry.path}\0{format_file_stamp(entry.path)}\n"
        hasher.update(file_stamp.encode("utf-8", "surrogateescape"))
    file = cache / "voters" / f"{hasher.hexdigest()[:16]}.json"
    try:
        stored: list[str] = read_checked_json(file)["votes"]
        return stored
    except FileNotFoundError:
        pass
    except DamagedFileError as error:
        report_damage(error, "the model's votes are computed again")
    votes = model_votes(annotator, train, classes, preprocessing, progress=progress)
    write_checked_json(file, {"votes": votes})
    return votes


def _check_known_classes(labels: Sequence[str], classes: Sequence[str], where: str) -> None:
    if unknown := [label for label in labels if label not in classes]:
        close = difflib.get_close_matches(unknown[0], classes, 1, 0.6)
        suggestion = f"; did you mean {close[0]!r}?" if close else ""
        raise UserError(
            f"{where}: {unknown[0]!r} is not a class of the data{suggestion}; choose from {', '.join(classes[:40])}"
        )
