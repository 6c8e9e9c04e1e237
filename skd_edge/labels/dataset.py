"""From a recipe's data section to clips in memory-mapped arrays, and the weak labels that training may see.

Weak labels come from one column or folder, or from several annotators whose votes are aggregated first::

    data:
      kind: csv
      root: videos
      label: verified              # trusted: read for validation and test, not for training
      votes: [anna, ben, rules]    # a class name in each cell; an empty cell abstains
      train: {split: [train]}
      val: {split: [val]}
      test: {split: [test]}
    labels: {aggregate: dawid-skene}   # or majority

Rules and models of ``labels`` are annotators too (``labels/voters.py``). A training clip without a label (an empty
cell, or nobody voted) is unlabelled: ``weak`` is -1. What ``labels.trusted`` says replaces every other label.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skd_bench.errors import UserError
from skd_bench.video.types import WHOLE_FILE
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.data.sources.registry import ClipListing, list_clips
from skd_edge.data.store.clip_store import ClipDataset, ClipSplit, open_store
from skd_edge.labels.sources.annotators import add_annotators, read_trusted_labels, resolve_class_prior
from skd_edge.labels.sources.label_model import LabelModelResult, aggregate_votes
from skd_edge.labels.sources.noise_simulation import (
    corrupt_instances,
    corrupt_labels,
    estimate_confusions,
    simulate_votes,
)
from skd_edge.recipe.labels import LabelSettings, NoiseSettings
from skd_edge.recipe.schema import Recipe

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class AnnotatorVotes:
    """Several annotators' votes on the training clips, and the weak labels that they became.

    Attributes:
        annotators: A names.
        given: ``(N, A)`` class indices, -1 where an annotator abstained.
        consensus: of the N clips, with each annotator's quality.
    """

    annotators: tuple[str, ...]
    given: NDArray[np.int64]
    consensus: LabelModelResult


@dataclass(frozen=True)
class TrainingData:
    """What a run learns from.

    Attributes:
        clips: all splits; ``clips.train.labels`` are as listed and are never shown to training where noise is made.
        weak_labels: ``(N,)`` the labels that training sees, -1 where a clip is unlabelled.
        truth: ``(N,)`` the listed labels where the recipe made the noise itself (-1 where there was none), else None.
        weak_hash: names the weak labels.
        sample_files: validation videos and their class, for a bundle that asks for sample clips.
        votes: where the weak labels come from several annotators.
        trusted: ``(N,)`` where a person has checked the weak label; None where nobody has checked any.
    """

    clips: ClipDataset
    weak_labels: NDArray[np.int64]
    truth: NDArray[np.int64] | None
    weak_hash: str
    sample_files: tuple[tuple[Path, str], ...]
    votes: AnnotatorVotes | None = None
    trusted: NDArray[np.bool_] | None = None

    @property
    def unlabelled_count(self) -> int:
        """How many training clips have no weak label."""
        return int((self.weak_labels < 0).sum())

    @property
    def injected_noise_rate(self) -> float | None:
        """Share of the labelled clips whose label the recipe made wrong; None where it made no noise."""
        if self.truth is None:
            return None
        known = (self.weak_labels >= 0) & (self.truth >= 0)
        return float((self.weak_labels != self.truth)[known].mean()) if known.any() else 0.0


def load_training_data(
    recipe: Recipe,
    cache: Path,
    *,
    render_progress: Progress | None = None,
    decode_progress: Progress | None = None,
    model_progress: Progress | None = None,
) -> TrainingData:
    """List, aggregate votes, render where needed, decode once, and make the recipe's label noise.

    Raises:
        UserError: See ``list_clips``, ``with_voters`` and ``open_store``; or no clip, or clips of one class only, are
            left labelled.
    """
    external_labels = recipe.labels.has_external_sources
    listing = list_clips(
        recipe.data, seed=recipe.seed, cache=cache, progress=render_progress, external_labels=external_labels
    )
    sampling, preprocess = inference_preprocessing(recipe.clip)
    listing = add_annotators(listing, recipe, (sampling, preprocess), cache, progress=model_progress)
    listing, votes = aggregate_labels(listing, recipe.labels)
    clips = open_store(
        listing,
        sampling,
        preprocess,
        cache,
        min_clips=recipe.min_clips,
        decoder=recipe.clip.decoder,
        progress=decode_progress,
    )
    truth, noise = clips.train.labels, recipe.labels.noise
    if votes is not None:
        votes = _select_readable_votes(votes, listing, clips)
    elif noise.kind == "voters":
        votes = _simulate_annotators(truth, len(clips.classes), recipe)
    weak = votes.consensus.hard if votes else _make_noisy_labels(clips.train, len(clips.classes), noise, recipe.seed)
    decided = read_trusted_labels(recipe.labels.trusted, clips.train.names, clips.classes)
    trusted = decided >= 0
    weak = np.where(trusted, decided, weak)
    _check_two_classes(weak, clips.classes, recipe.labels)
    key = hashlib.sha256(weak.tobytes() + (trusted.tobytes() if trusted.any() else b"")).hexdigest()
    readable = set(clips.val.names)
    whole = (e for e in listing.entries if e.split == "val" and e.name in readable and e.span == WHOLE_FILE)
    samples = tuple((e.path, e.label) for e in whole)
    truth_known = truth if noise.kind != "none" else None
    return TrainingData(clips, weak, truth_known, key, samples, votes, trusted if trusted.any() else None)


def _make_noisy_labels(train: ClipSplit, classes: int, noise: NoiseSettings, seed: int) -> NDArray[np.int64]:
    if noise.kind == "instances" and noise.rate:
        return corrupt_instances(
            train.labels, estimate_confusions(train.clips, train.labels, classes, seed), noise, seed
        )
    return corrupt_labels(train.labels, classes, noise, seed)


def aggregate_labels(listing: ClipListing, labels: LabelSettings) -> tuple[ClipListing, AnnotatorVotes | None]:
    """Give every training clip the label that its votes agree on; a listing without votes stays as it is.

    Raises:
        UserError: No clip is left of some class.
    """
    if not listing.annotators:
        return listing, None
    index = {"": -1} | {name: i for i, name in enumerate(listing.classes)}
    train = [e for e in listing.entries if e.split == "train"]
    given = np.array([[index[vote] for vote in e.votes] for e in train], np.int64)
    consensus = aggregate_votes(
        given, len(listing.classes), labels.aggregate, resolve_class_prior(labels, listing.classes)
    )
    if lost := [name for i, name in enumerate(listing.classes) if not (consensus.hard == i).any()]:
        raise UserError(
            f"the votes ({labels.aggregate}) agree on class {lost[0]!r} for no training clip; collect more votes on "
            "it, try the other labels.aggregate, or leave the class out of the data"
        )
    names = (listing.classes[i] if i >= 0 else "" for i in consensus.hard)
    entries = tuple(replace(e, label=next(names)) if e.split == "train" else e for e in listing.entries)
    return replace(listing, entries=entries), AnnotatorVotes(listing.annotators, given, consensus)


def _select_readable_votes(votes: AnnotatorVotes, listing: ClipListing, clips: ClipDataset) -> AnnotatorVotes:
    """The votes on the clips that could be read; annotators stay as they were judged on all."""
    names = set(clips.train.names)
    rows = np.flatnonzero([e.name in names for e in listing.entries if e.split == "train"])
    return replace(votes, given=votes.given[rows], consensus=votes.consensus.select_rows(rows))


def _simulate_annotators(truth: NDArray[np.int64], classes: int, recipe: Recipe) -> AnnotatorVotes:
    noise = recipe.labels.noise
    given = simulate_votes(truth, classes, noise, recipe.seed)
    names = tuple(f"voter {i + 1}" for i in range(noise.voters))
    return AnnotatorVotes(names, given, aggregate_votes(given, classes, recipe.labels.aggregate))


def _check_two_classes(weak: NDArray[np.int64], classes: tuple[str, ...], labels: LabelSettings) -> None:
    """Without labels of two classes there is nothing to learn."""
    present = np.unique(weak[weak >= 0])
    if len(present) >= 2:
        return
    advice = (
        "lower labels.noise.abstain or labels.noise.rate"
        if labels.noise.kind != "none"
        else "label some clips of each class"
    )
    if not len(present):
        raise UserError(f"none of the {len(weak)} training clips has a label; {advice}")
    raise UserError(f"every labelled training clip is of class {classes[present[0]]!r}; two are needed: {advice}")
