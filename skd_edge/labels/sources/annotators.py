"""Every weak source of a recipe becomes a voter: the data's label or annotators, rules, models; and what is trusted."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skd_bench.errors import UserError
from skd_bench.files import sha256_file, write_json
from skd_bench.video.types import Preprocessing, Sampling
from skd_edge.data.sources.listing import check_classes
from skd_edge.data.sources.registry import ClipEntry, ClipListing
from skd_edge.labels.csv_files import read_sheet
from skd_edge.labels.sources.keyword_rules import list_metadata_columns, rule_votes
from skd_edge.labels.sources.model_annotators import model_votes
from skd_edge.recipe.data import TableData
from skd_edge.recipe.labels import LabelSettings, ModelAnnotator
from skd_edge.recipe.schema import Recipe

Progress = Callable[[int, int], None]


def add_annotators(
    listing: ClipListing,
    recipe: Recipe,
    preprocessing: tuple[Sampling, Preprocessing],
    cache: Path,
    *,
    progress: Progress | None = None,
) -> ClipListing:
    """The listing with the recipe's rules and models among its annotators; without any, as it is.

    Where the data has one label a clip instead of votes, that label is one more annotator, called ``label``; where it
    has neither, rules and models stand alone, and without these the trusted labels.

    Args:
        listing: of the data.
        recipe: whose ``labels`` name the sources.
        preprocessing: how the recipe samples and prepares clips.
        cache: where the answers of models are kept.
        progress: called with (done, total) while a model runs.

    Raises:
        UserError: A file of the recipe's labels cannot be used, a class is unknown, two voters have one name, or all
            of them leave a class without a training clip.
    """
    labels, train = recipe.labels, [e for e in listing.entries if e.split == "train"]
    if not labels.has_external_sources:
        return listing
    if not labels.rules and not labels.models:
        if not listing.annotators and not any(e.label for e in train):
            listing = _apply_trusted_labels(labels.trusted, listing)
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
        raise UserError(f"two voters are called {twice[0]!r}; give the rule or the model another name")
    votes = zip(*(column for _, column in vote_columns), strict=True)
    entries = tuple(replace(e, label="", votes=next(votes)) if e.split == "train" else e for e in listing.entries)
    listing = replace(listing, entries=entries, annotators=tuple(names))
    check_classes(listing)
    return listing


def _apply_trusted_labels(trusted: Path | None, listing: ClipListing) -> ClipListing:
    """A listing without any label of training clips, with those that a person has decided on."""
    names = [e.name for e in listing.entries if e.split == "train"]
    decided = iter(read_trusted_labels(trusted, names, listing.classes).tolist())
    labels = (*listing.classes, "")  # -1: nobody did
    entries = (replace(e, label=labels[next(decided)]) if e.split == "train" else e for e in listing.entries)
    return replace(listing, entries=tuple(entries))


def read_trusted_labels(file: Path | None, names: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """Labels that a person has checked ``(N,)``: class indices, -1 where nobody did.

    Args:
        file: a CSV with columns ``clip`` and ``trusted`` (an edited ``audit.csv``); an empty cell decides nothing.
        names: the N training clips; the file may name others too.
        classes: of the data.

    Raises:
        UserError: The file cannot be read, names an unknown class, decides one clip in two ways, or no clip of these.
    """
    decided = np.full(len(names), -1, np.int64)
    if file is None:
        return decided
    found, row_of = read_decisions(file), {name: i for i, name in enumerate(names)}
    _check_known_classes(list(found.values()), classes, str(file))
    for clip, label in found.items():
        if clip in row_of:
            decided[row_of[clip]] = classes.index(label)
    if found and (decided < 0).all():
        raise UserError(
            f"{file} decides {len(found)} clips, and none of them is a training clip of this recipe (first: "
            f"{next(iter(found))}); give the file that an audit of this data wrote"
        )
    return decided


def read_decisions(file: Path) -> dict[str, str]:
    """Class by clip, where the column ``trusted`` is filled in.

    Raises:
        UserError: The file cannot be read, or decides one clip in two ways.
    """
    found: dict[str, str] = {}
    for line, row in read_sheet(file, ["clip", "trusted"]):
        clip, label = row["clip"], row["trusted"].strip()
        if label and found.setdefault(clip, label) != label:
            raise UserError(f"{file}:{line}: {clip} is {label!r} here and {found[clip]!r} above; keep one of them")
    return found


def resolve_class_prior(labels: LabelSettings, classes: Sequence[str]) -> NDArray[np.float64] | None:
    """The recipe's class shares ``(C,)`` in the order of the classes, or None.

    Raises:
        UserError: A class is unknown or missing.
    """
    if not labels.prior:
        return None
    _check_known_classes(list(labels.prior), classes, "labels.prior")
    if missing := [c for c in classes if c not in labels.prior]:
        raise UserError(f"labels.prior gives no share for class {missing[0]!r}; name every class, or leave it out")
    shares = np.array([labels.prior[c] for c in classes])
    if not shares.sum() > 0:
        raise UserError("labels.prior holds only zeros; give each class its share")
    return np.asarray(shares / shares.sum())


# ------------------------------------------------------------------------------------------ parts
def _read_rule_texts(recipe: Recipe, columns: Sequence[str], clips: set[str]) -> dict[str, dict[str, str]]:
    """What rules read of each clip: the named columns of the metadata, one row at a time."""
    if not columns:
        return {}
    file, key, data = recipe.labels.metadata, "clip", recipe.data
    if file is None:
        if not isinstance(data, TableData):
            raise UserError(
                f"labels.rules read the column {columns[0]!r}, and there is no table: give labels.metadata, a CSV with "
                "a column 'clip' and that one, or use 'file' or 'path'"
            )
        file, key = data.root / data.file, data.path
    rows = (row for _, row in read_sheet(file, [key, *columns]))
    return {row[key]: {c: row[c] for c in columns} for row in rows if row[key] in clips}


def _load_or_compute_votes(
    annotator: ModelAnnotator,
    train: Sequence[ClipEntry],
    classes: Sequence[str],
    preprocessing: tuple[Sampling, Preprocessing],
    cache: Path,
    progress: Progress | None,
) -> list[str]:
    """A model's votes; of a file that runs, kept in the cache by model, clips and view."""
    if annotator.table is not None:
        return model_votes(annotator, train, classes, preprocessing)
    source = annotator.onnx if annotator.onnx is not None else (annotator.bundle or Path()) / "manifest.json"
    hasher = hashlib.sha256(repr((annotator.model_dump(), tuple(classes), preprocessing)).encode())
    hasher.update(sha256_file(source).encode() if source.is_file() else b"")
    for entry in train:
        stat = entry.path.stat() if entry.path.exists() else None
        file_stamp = f"{entry.path}\0{stat and (stat.st_size, stat.st_mtime_ns)}\n"
        hasher.update(file_stamp.encode("utf-8", "surrogateescape"))
    file = cache / "voters" / f"{hasher.hexdigest()[:16]}.json"
    if not file.is_file():
        write_json(file, model_votes(annotator, train, classes, preprocessing, progress=progress))
    votes: list[str] = json.loads(file.read_text(encoding="utf-8"))
    return votes


def _check_known_classes(labels: Sequence[str], classes: Sequence[str], where: str) -> None:
    if unknown := [label for label in labels if label not in classes]:
        close = difflib.get_close_matches(unknown[0], classes, 1, 0.6)
        suggestion = f"; did you mean {close[0]!r}?" if close else ""
        raise UserError(
            f"{where}: {unknown[0]!r} is no class of the data{suggestion} (there are: {', '.join(classes[:40])})"
        )
