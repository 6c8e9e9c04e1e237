"""What a baseline of the study may use, and how it trains: with the product's trainer, schedule and epochs.

A baseline is a function from a `Study` to an `Outcome`. It sees weak labels and checked labels, never true ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skd_bench.video.types import Preprocessing
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.distill.job import JobSpec, json_digest
from skd_edge.distill.trainer import Trainer, TrainingInputs
from skd_edge.execution.job_graph import JobFactory, TrainingJob, fingerprint_of, topological_order
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.labels.dataset import TrainingData
from skd_edge.models.builder import AnyNetwork
from skd_edge.recipe.schema import NetworkSpec, Recipe
from skd_edge.run_files.work_lock import lock_work
from skd_edge.run_folder import Run

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
_COPY = 10_000_000  # ids of a copy differ by this much, so that every copy is augmented in another way


@dataclass(frozen=True)
class Outcome:
    """What a baseline trained.

    Attributes:
        network: the student that is evaluated, or a teacher on the way.
        accuracy: its validation accuracy in [0, 1], with which its epoch was selected.
        seconds: duration of all trainings that it needs.
        epochs: epochs of its own training.
        labels: ``(N,)`` class indices that it was trained with; None if it used the given ones.
    """

    network: AnyNetwork
    accuracy: float
    seconds: float
    epochs: int
    labels: Ints | None = None

    def add_seconds(self, *others: Outcome) -> Outcome:
        """The same outcome, with the seconds of trainings that it needed."""
        return replace(self, seconds=self.seconds + sum(o.seconds for o in others))


@dataclass(frozen=True)
class Study:
    """One cell of the study for one baseline.

    Attributes:
        recipe: the recipe, with the row's settings.
        data: clips and labels without true labels; see `make_study`.
        run: the run folder.
        weight: factor on the baseline's own setting, for tuning trials; 1 is its default.
    """

    recipe: Recipe
    data: TrainingData
    run: Run
    weight: float = 1.0

    @property
    def student(self) -> NetworkSpec:
        """The network that is evaluated."""
        return self.recipe.students[0]

    @property
    def preprocess(self) -> Preprocessing:
        """How pixels become input."""
        return inference_preprocessing(self.recipe.clip)[1]

    @property
    def checked(self) -> NDArray[np.bool_]:
        """``(N,)`` whether a person checked the label."""
        none = np.zeros(len(self.data.weak_labels), bool)
        return none if self.data.trusted is None else self.data.trusted

    def make_factory(self, data: TrainingData) -> JobFactory:
        """Makes jobs on these labels."""
        return JobFactory(self.recipe, fingerprint_of(data))

    def train_graph(self, data: TrainingData, job: TrainingJob) -> Outcome:
        """Train a job and what it requires on these labels; finished jobs come from the cache."""
        executor = LocalExecutor(self.run, data, self.recipe.labels, self.preprocess)
        finished = []
        for needed in topological_order([job]):
            with lock_work(self.run.cache / "locks" / needed.hash, wait=True):  # rows beside this one may need it too
                finished.append(executor.train_job(needed))
        labels = None if job.labels is None else executor.pseudo_labels(job.labels, job.folds).hard
        seconds = sum(f.seconds for f in finished)
        return Outcome(executor.load_network(job), finished[-1].accuracy, seconds, job.spec.epochs, labels)

    def train_alone(self, data: TrainingData) -> Outcome:
        """Train the student on these labels with cross-entropy."""
        return self.train_graph(data, self.make_factory(data).make_labels_only_job(self.student))

    def train_directly(self, spec: JobSpec, inputs: TrainingInputs, make_trainer: Callable[..., Trainer]) -> Outcome:
        """Train with a trainer of the baseline's own; an interrupted training is resumed.

        Args:
            spec: the job; its ``targets`` must identify everything of ``inputs`` that is not in it.
            inputs: what it learns from.
            make_trainer: called with spec, inputs and folder.
        """
        folder = self.run.folder / "direct" / spec.hash
        trained = make_trainer(spec, inputs, folder).run()
        (folder / "state.pt").unlink(missing_ok=True)
        assert trained.network is not None
        network = trained.network.cpu().eval().requires_grad_(False)
        return Outcome(network, trained.accuracy, trained.seconds, spec.epochs)

    # ------------------------------------------------------------------------------------------ labels
    def label_clips(self, labels: Ints, *, keep_checks: bool = False) -> TrainingData:
        """The same clips with these labels ``(N,)`` (-1: unlabelled) as weak ones.

        Args:
            labels: class indices.
            keep_checks: whether checked labels stay, with the standing that the method gives them.
        """
        trusted = self.data.trusted_labels if keep_checks else None
        data = replace(self.data, weak_labels=labels, trusted_labels=trusted, votes=None)
        return replace(data, weak_hash=hash_labels(data))

    def repeat_checked_clips(self) -> TrainingData:
        """The checked clips alone, repeated until they are as many as all clips: equal epochs are then equal steps."""
        labels = self.data.trusted_labels
        if labels is None:
            raise ValueError("this baseline needs checked clips")
        rows, train = np.flatnonzero(labels >= 0), self.data.clips.train
        copies = np.resize(rows, len(train))
        repeated = train.select_rows(copies)
        new_ids = repeated.ids + _COPY * (np.arange(len(copies)) // len(rows))
        clips = replace(self.data.clips, train=replace(repeated, ids=new_ids, labels=labels[copies]))
        data = replace(
            self.data, clips=clips, weak_labels=labels[copies], trusted_labels=None, votes=None, label_notes=()
        )
        return replace(data, weak_hash=hash_labels(data))


def make_study(recipe: Recipe, data: TrainingData, run: Run, weight: float = 1.0) -> Study:
    """A study whose data have no true labels: listed labels of the training clips are replaced by the given ones."""
    train = replace(data.clips.train, labels=data.given_labels)
    hidden = replace(data, truth=None, clips=replace(data.clips, train=train))
    return Study(recipe, hidden, run, weight)


def hash_labels(data: TrainingData) -> str:
    """A hash of all labels that a job on these data may use; part of the names of jobs."""
    trusted = b"" if data.trusted_labels is None else data.trusted_labels.tobytes()
    return hashlib.sha256(b"study" + data.weak_labels.tobytes() + trusted).hexdigest()


def name_targets(*parts: object) -> str:
    """A hash of what a direct training learns from; arrays by their bytes."""
    return json_digest([hashlib.sha256(p.tobytes()).hexdigest() if isinstance(p, np.ndarray) else p for p in parts])


def one_hot(labels: Ints, classes: int) -> Floats:
    """Label distributions ``(N, C)``; a row of zeros is a clip without a label."""
    return np.asarray(np.eye(classes, dtype=np.float32)[labels] * (labels >= 0)[:, None], np.float32)
