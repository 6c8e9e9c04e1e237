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
from skd_bench.video.clip import WHOLE, Preprocess, Sampling
from skd_edge.data.sources.registry import Listing, list_clips
from skd_edge.data.store.clip_store import Clips, ClipSet, open_store
from skd_edge.labels.sources.annotators import known_prior, trusted_labels, with_voters
from skd_edge.labels.sources.label_model import Consensus, aggregate
from skd_edge.labels.sources.noise_simulation import confusable, corrupt, corrupt_instances, simulated_votes
from skd_edge.recipe.labels import Labels, Noise
from skd_edge.recipe.schema import Clip, Recipe

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Votes:
    """Several annotators' votes on the training clips, and the weak labels that they became.

    Attributes:
        annotators: A names.
        given: ``(N, A)`` class indices, -1 where an annotator abstained.
        consensus: of the N clips, with each annotator's quality.
    """

    annotators: tuple[str, ...]
    given: NDArray[np.int64]
    consensus: Consensus


@dataclass(frozen=True)
class Material:
    """What a run learns from.

    Attributes:
        clips: all splits; ``clips.train.labels`` are as listed and are never shown to training where noise is made.
        weak: ``(N,)`` the labels that training sees, -1 where a clip is unlabelled.
        truth: ``(N,)`` the listed labels where the recipe made the noise itself (-1 where there was none), else None.
        weak_hash: names the weak labels.
        sample_files: validation videos and their class, for a bundle that asks for sample clips.
        votes: where the weak labels come from several annotators.
        trusted: ``(N,)`` where a person has checked the weak label; None where nobody has checked any.
    """

    clips: Clips
    weak: NDArray[np.int64]
    truth: NDArray[np.int64] | None
    weak_hash: str
    sample_files: tuple[tuple[Path, str], ...]
    votes: Votes | None = None
    trusted: NDArray[np.bool_] | None = None

    @property
    def unlabelled(self) -> int:
        """How many training clips have no weak label."""
        return int((self.weak < 0).sum())

    @property
    def made_wrong(self) -> float | None:
        """Share of the labelled clips whose label the recipe made wrong; None where it made no noise."""
        if self.truth is None:
            return None
        known = (self.weak >= 0) & (self.truth >= 0)
        return float((self.weak != self.truth)[known].mean()) if known.any() else 0.0


def deployed_view(clip: Clip) -> tuple[Sampling, Preprocess]:
    """How the device samples and preprocesses: the one contract of training, measurement and prediction."""
    sampling = Sampling(clip.frames, clip.sampling, clip.stride, clip.segments)
    return sampling, Preprocess(clip.size, clip.size, clip.fit, clip.mean, clip.std)


def gather(
    recipe: Recipe,
    cache: Path,
    *,
    rendered: Progress | None = None,
    decoded: Progress | None = None,
    judged: Progress | None = None,
) -> Material:
    """List, aggregate votes, render where needed, decode once, and make the recipe's label noise.

    Raises:
        UserError: See ``list_clips``, ``with_voters`` and ``open_store``; or no clip, or clips of one class only, are
            left labelled.
    """
    elsewhere = recipe.labels.elsewhere
    listing = list_clips(recipe.data, seed=recipe.seed, cache=cache, progress=rendered, elsewhere=elsewhere)
    sampling, preprocess = deployed_view(recipe.clip)
    listing = with_voters(listing, recipe, (sampling, preprocess), cache, progress=judged)
    listing, votes = settle(listing, recipe.labels)
    clips = open_store(listing, sampling, preprocess, cache, min_clips=recipe.min_clips, by=recipe.clip.decoder,
                       progress=decoded)  # fmt: skip
    truth, noise = clips.train.labels, recipe.labels.noise
    if votes is not None:
        votes = _readable(votes, listing, clips)
    elif noise.kind == "voters":
        votes = _simulated(truth, len(clips.classes), recipe)
    weak = votes.consensus.hard if votes else _noisy(clips.train, len(clips.classes), noise, recipe.seed)
    decided = trusted_labels(recipe.labels.trusted, clips.train.names, clips.classes)
    trusted = decided >= 0
    weak = np.where(trusted, decided, weak)
    _refuse(weak, clips.classes, recipe.labels)
    key = hashlib.sha256(weak.tobytes() + (trusted.tobytes() if trusted.any() else b"")).hexdigest()
    readable = set(clips.val.names)
    whole = (e for e in listing.entries if e.split == "val" and e.name in readable and e.part == WHOLE)
    samples = tuple((e.path, e.label) for e in whole)
    truth_known = truth if noise.kind != "none" else None
    return Material(clips, weak, truth_known, key, samples, votes, trusted if trusted.any() else None)


def _noisy(train: ClipSet, classes: int, noise: Noise, seed: int) -> NDArray[np.int64]:
    if noise.kind == "instances" and noise.rate:
        return corrupt_instances(train.labels, confusable(train.clips, train.labels, classes, seed), noise, seed)
    return corrupt(train.labels, classes, noise, seed)


def settle(listing: Listing, labels: Labels) -> tuple[Listing, Votes | None]:
    """Give every training clip the label that its votes agree on; a listing without votes stays as it is.

    Raises:
        UserError: No clip is left of some class.
    """
    if not listing.annotators:
        return listing, None
    index = {"": -1} | {name: i for i, name in enumerate(listing.classes)}
    train = [e for e in listing.entries if e.split == "train"]
    given = np.array([[index[vote] for vote in e.votes] for e in train], np.int64)
    said = aggregate(given, len(listing.classes), labels.aggregate, known_prior(labels, listing.classes))
    if lost := [name for i, name in enumerate(listing.classes) if not (said.hard == i).any()]:
        raise UserError(
            f"the votes ({labels.aggregate}) agree on class {lost[0]!r} for no training clip; collect more votes on "
            "it, try the other labels.aggregate, or leave the class out of the data"
        )
    names = (listing.classes[i] if i >= 0 else "" for i in said.hard)
    entries = tuple(replace(e, label=next(names)) if e.split == "train" else e for e in listing.entries)
    return replace(listing, entries=entries), Votes(listing.annotators, given, said)


def _readable(votes: Votes, listing: Listing, clips: Clips) -> Votes:
    """The votes on the clips that could be read; annotators stay as they were judged on all."""
    names = set(clips.train.names)
    rows = np.flatnonzero([e.name in names for e in listing.entries if e.split == "train"])
    return replace(votes, given=votes.given[rows], consensus=votes.consensus.rows(rows))


def _simulated(truth: NDArray[np.int64], classes: int, recipe: Recipe) -> Votes:
    noise = recipe.labels.noise
    given = simulated_votes(truth, classes, noise, recipe.seed)
    names = tuple(f"voter {i + 1}" for i in range(noise.voters))
    return Votes(names, given, aggregate(given, classes, recipe.labels.aggregate))


def _refuse(weak: NDArray[np.int64], classes: tuple[str, ...], labels: Labels) -> None:
    """Without labels of two classes there is nothing to learn."""
    present = np.unique(weak[weak >= 0])
    if len(present) >= 2:
        return
    way = (
        "lower labels.noise.abstain or labels.noise.rate"
        if labels.noise.kind != "none"
        else "label some clips of each class"
    )
    if not len(present):
        raise UserError(f"none of the {len(weak)} training clips has a label; {way}")
    raise UserError(f"every labelled training clip is of class {classes[present[0]]!r}; two are needed: {way}")
