"""Loads the training data of a recipe: decoded clips and the weak labels of its training clips.

Weak labels come from one column or folder, or from several annotators whose votes are aggregated first::

    data:
      kind: csv
      root: videos
      label: verified              # read for validation and test clips, not for training clips
      votes: [anna, ben, rules]    # a class name in each cell; an empty cell abstains
      train: {split: [train]}
      val: {split: [val]}
      test: {split: [test]}
    labels: {aggregate: dawid-skene}   # or majority

Rules and models of the recipe's section ``labels`` are annotators too (``labels/sources/annotators.py``). A training
clip without a label (an empty cell, or no votes) is unlabelled: its weak label is -1. Labels that a person checked
(``labels.trusted``, ``data.trusted``) take their place in training; the weak labels of these clips stay beside them.
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
from skd_edge.data.sources.registry import ClipListing, list_recipe_clips
from skd_edge.data.store.builder import Decoding
from skd_edge.data.store.clip_store import ClipDataset, open_store
from skd_edge.labels.sources.annotators import add_annotators, resolve_class_prior
from skd_edge.labels.sources.label_model import LabelModelResult, aggregate_votes
from skd_edge.labels.sources.made_up_titles import label_by_titles
from skd_edge.labels.sources.noise_simulation import corrupt_labels, simulate_votes
from skd_edge.labels.sources.trusted_labels import apply_trusted_labels, describe_coverage, draw_trusted_labels
from skd_edge.labels.sources.weak_model import answer_as_weak_model, compute_motion_energy, draw_held_out_clips
from skd_edge.recipe.labels import LabelSettings, NoiseSettings
from skd_edge.recipe.schema import Recipe

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class AnnotatorVotes:
    """The votes of several annotators on the training clips, and the weak labels aggregated from them.

    Attributes:
        annotators: names of the A annotators.
        given: ``(N, A)`` class indices of the votes, -1 for an abstention.
        consensus: the aggregated labels of the N clips, and the estimated accuracy of each annotator.
    """

    annotators: tuple[str, ...]
    given: NDArray[np.int64]
    consensus: LabelModelResult


@dataclass(frozen=True)
class TrainingData:
    """The clips and labels of a run.

    Attributes:
        clips: all splits. ``clips.train.labels`` are the listed labels; training never uses them if the recipe adds
            label noise.
        weak_labels: ``(N,)`` class indices by the weak sources, also of checked clips; -1 if no source labels a clip.
        truth: ``(N,)`` the listed labels (-1: unlabelled), if the recipe adds label noise; else None.
        weak_hash: SHA-256 of ``given_labels`` and ``trusted``; part of the names of jobs.
        sample_files: validation videos and their class names, for a bundle with sample clips.
        votes: the votes, if the weak labels come from several annotators.
        trusted_labels: ``(N,)`` class indices that a person checked, -1 where nobody did; None if no label was checked.
        label_notes: remarks on checked labels for the user, such as those that cannot be used.
    """

    clips: ClipDataset
    weak_labels: NDArray[np.int64]
    truth: NDArray[np.int64] | None
    weak_hash: str
    sample_files: tuple[tuple[Path, str], ...]
    votes: AnnotatorVotes | None = None
    trusted_labels: NDArray[np.int64] | None = None
    label_notes: tuple[str, ...] = ()

    @property
    def given_labels(self) -> NDArray[np.int64]:
        """``(N,)`` class indices that training starts from: the checked label, else the weak one; -1 without either."""
        if self.trusted_labels is None:
            return self.weak_labels
        return np.where(self.trusted_labels >= 0, self.trusted_labels, self.weak_labels)

    @property
    def trusted(self) -> NDArray[np.bool_] | None:
        """``(N,)`` whether a person checked the label; None if no label was checked."""
        return None if self.trusted_labels is None else self.trusted_labels >= 0

    @property
    def unlabelled_count(self) -> int:
        """Number of training clips without any label."""
        return int((self.given_labels < 0).sum())

    @property
    def injected_noise_rate(self) -> float | None:
        """Share of the weak labels that the noise of the recipe made wrong; None without such noise."""
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
    compare_progress: Progress | None = None,
) -> TrainingData:
    """List the clips of a recipe, aggregate votes, open or build the clip store, and apply label noise.

    Args:
        recipe: the recipe.
        cache: the cache folder.
        render_progress: called with (done, total) while the generated set is rendered.
        decode_progress: called with (done, total) while clips are decoded.
        model_progress: called with (done, total) while a model of ``labels.models`` runs.
        compare_progress: called with (done, total) while clips are compared with those of other splits.

    Raises:
        UserError: See ``list_recipe_clips``, ``add_annotators``, ``aggregate_labels`` and ``open_store``; or the
            labelled clips are of fewer than two classes.
    """
    listing = list_recipe_clips(recipe, cache, render_progress)
    listing, notes = apply_trusted_labels(listing, recipe.labels.trusted)
    sampling, preprocess = inference_preprocessing(recipe.clip)
    listing = add_annotators(listing, recipe, (sampling, preprocess), cache, progress=model_progress)
    listing, votes = aggregate_labels(listing, recipe.labels)
    decoding = Decoding(sampling, preprocess, recipe.clip.decoder, progress=decode_progress)
    clips = open_store(
        listing,
        decoding,
        cache,
        min_clips=recipe.min_clips,
        allow_test_copies=recipe.allow_test_copies,
        compare_progress=compare_progress,
    )
    noise = recipe.labels.noise
    if noise.kind == "model":
        clips, weak = _label_with_weak_model(clips, noise, recipe.seed)
    elif votes is not None or noise.kind == "voters":
        votes = _select_readable_votes(votes, listing, clips) if votes else _simulate_annotators(clips, recipe)
        weak = votes.consensus.hard
    else:
        weak = _make_noisy_labels(clips, noise, recipe.seed)
    truth = clips.train.labels
    trusted_labels = _collect_trusted_labels(listing, clips, recipe)
    trusted = trusted_labels >= 0
    given = np.where(trusted, trusted_labels, weak)
    _check_two_classes(given, clips.classes, recipe.labels)
    key = hashlib.sha256(given.tobytes() + (trusted.tobytes() if trusted.any() else b"")).hexdigest()
    readable = set(clips.val.names)
    # A sample clip is copied into a bundle as a file, so parts of files and folders of pictures cannot be samples.
    whole = (e for e in listing.entries if e.split == "val" and e.name in readable and e.span == WHOLE_FILE)
    samples = tuple((e.path, e.label) for e in whole if not e.path.is_dir())
    truth_known = truth if noise.kind != "none" else None
    notes = (*listing.trusted_notes, *notes, *describe_coverage(trusted_labels, clips.classes))
    checked = trusted_labels if trusted.any() else None
    return TrainingData(clips, weak, truth_known, key, samples, votes, checked, notes)


def _collect_trusted_labels(listing: ClipListing, clips: ClipDataset, recipe: Recipe) -> NDArray[np.int64]:
    """The checked labels of the training clips ``(N,)``: of the listing, or else drawn for a study; -1 without one."""
    train = {e.name: e for e in listing.entries if e.split == "train"}
    index = {"": -1} | {name: i for i, name in enumerate(clips.classes)}
    listed = np.array([index[train[name].checked] for name in clips.train.names], np.int64)
    if not recipe.labels.trusted_per_class:
        return listed
    held_out = {e.group for e in listing.entries if e.split != "train" and e.group != e.name}
    forbidden = np.array([train[name].group in held_out for name in clips.train.names], bool)
    drawn = draw_trusted_labels(clips.train.labels, recipe.labels.trusted_per_class, recipe.seed, forbidden)
    return np.where(listed >= 0, listed, drawn)


def _make_noisy_labels(clips: ClipDataset, noise: NoiseSettings, seed: int) -> NDArray[np.int64]:
    """The listed labels of the training clips ``(N,)`` with the recipe's noise."""
    train = clips.train
    if noise.kind == "keyword-rules":
        return label_by_titles(train.names, train.labels, clips.classes, noise, seed)
    return corrupt_labels(train.labels, len(clips.classes), noise, seed)


def _label_with_weak_model(
    clips: ClipDataset, noise: NoiseSettings, seed: int
) -> tuple[ClipDataset, NDArray[np.int64]]:
    """Take the clips that the weak model is fitted on out of the training clips, and let it label the others.

    Returns:
        The clips without those, and a label for each remaining training clip ``(N,)``: its listed label at rate 0.
    """
    held_out = draw_held_out_clips(clips.train.labels, noise, seed)
    train, fitting = (clips.train.select_rows(np.flatnonzero(rows)) for rows in (~held_out, held_out))
    remaining = replace(clips, train=train)
    if noise.rate == 0:
        return remaining, train.labels.copy()
    features = compute_motion_energy(fitting.clips), compute_motion_energy(train.clips)
    return remaining, answer_as_weak_model(features, (fitting.labels, train.labels), noise, seed).labels


def aggregate_labels(listing: ClipListing, labels: LabelSettings) -> tuple[ClipListing, AnnotatorVotes | None]:
    """Give every training clip the label that is aggregated from its votes.

    Args:
        listing: the clips; without annotators it is returned unchanged.
        labels: names the method of aggregation (``aggregate``), and known class shares (``prior``).

    Returns:
        The listing with labels, and the votes; None instead of votes without annotators.

    Raises:
        UserError: The aggregated labels of the training clips do not contain some class.
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
            f"no training clip has the label {lost[0]!r} after the votes are aggregated ({labels.aggregate}); collect "
            "more votes for it, try the other labels.aggregate, or leave the class out of the data"
        )
    names = (listing.classes[i] if i >= 0 else "" for i in consensus.hard)
    entries = tuple(replace(e, label=next(names)) if e.split == "train" else e for e in listing.entries)
    return replace(listing, entries=entries), AnnotatorVotes(listing.annotators, given, consensus)


def _select_readable_votes(votes: AnnotatorVotes, listing: ClipListing, clips: ClipDataset) -> AnnotatorVotes:
    """The votes on the readable clips; the accuracies of annotators remain those of all clips."""
    names = set(clips.train.names)
    rows = np.flatnonzero([e.name in names for e in listing.entries if e.split == "train"])
    return replace(votes, given=votes.given[rows], consensus=votes.consensus.select_rows(rows))


def _simulate_annotators(clips: ClipDataset, recipe: Recipe) -> AnnotatorVotes:
    """Votes of simulated annotators on the training clips, whose listed labels are taken as true, aggregated."""
    noise, classes = recipe.labels.noise, len(clips.classes)
    given = simulate_votes(clips.train.labels, classes, noise, recipe.seed)
    names = tuple(f"voter {i + 1}" for i in range(noise.voters))
    return AnnotatorVotes(names, given, aggregate_votes(given, classes, recipe.labels.aggregate))


def _check_two_classes(weak: NDArray[np.int64], classes: tuple[str, ...], labels: LabelSettings) -> None:
    """Check that the weak labels name two classes at least.

    Raises:
        UserError: They do not.
    """
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
    raise UserError(
        f"every labelled training clip is of class {classes[present[0]]!r}; two classes are needed: {advice}"
    )
