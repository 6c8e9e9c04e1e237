"""Trains jobs one after the other in this process. `RayExecutor` and `TorchrunExecutor` are based on it.

A job that is finished in this run, or in the cache that runs share, is not trained again.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save

from skd_bench.errors import UserError
from skd_bench.files import write_atomic
from skd_bench.integrity.checked_files import describe_files, read_checked_json, write_checked_json
from skd_bench.video.types import Preprocessing
from skd_edge.data.csv_files import write_sheet
from skd_edge.distill.checkpoint import TrainingCurve
from skd_edge.distill.distributed import ProcessGroup
from skd_edge.distill.job import JobSpec, json_digest
from skd_edge.distill.teacher_outputs import FixedTeacherOutputs, TeacherOutputCache, TeacherOutputSource
from skd_edge.distill.trainer import (
    SINGLE_PROCESS,
    TrainingInputs,
    TrainingProgress,
    TrainResult,
    assign_folds,
    build_learner,
    extract_features,
    predict,
    train_job,
    training_view,
)
from skd_edge.execution.job_graph import TrainingJob
from skd_edge.labels.cleaning.pseudo_label_files import read_pseudo_labels, write_pseudo_labels
from skd_edge.labels.cleaning.pseudo_labels import PseudoLabels, estimate_pseudo_labels
from skd_edge.labels.dataset import TrainingData
from skd_edge.models.builder import AnyNetwork
from skd_edge.models.external.loader import unwrap_adapter
from skd_edge.models.external.logits_file import read_logits_file
from skd_edge.models.weights import load_weights
from skd_edge.recipe.labels import LabelSettings
from skd_edge.recipe.schema import Teacher
from skd_edge.run_folder import JOB_FILE, RunFolder

_JOB_FILES = {"weights.safetensors", "memory.npy", "val_logits.npy"}
_AVERAGED_VIEWS = 4  # number of augmented views over which a teacher's predictions for a training clip are averaged


@dataclass(frozen=True)
class JobResult:
    """A finished job.

    Attributes:
        job: the job.
        folder: the folder with its weights and logits.
        accuracy: top-1 accuracy on the N validation clips, in 0..1.
        seconds: duration of the training, including its labels if it was the first to need them.
        cached: whether the job was finished before.
        curve: one row of metrics for each epoch; empty for a teacher that was trained elsewhere.
        correct: ``(N,)`` whether each validation clip is classified correctly.
    """

    job: TrainingJob
    folder: Path
    accuracy: float
    seconds: float
    cached: bool
    curve: TrainingCurve
    correct: NDArray[np.bool_]


ProgressListener = Callable[[TrainingJob, TrainingProgress], None]


def ignore_progress(job: TrainingJob, row: TrainingProgress) -> None:
    """A `ProgressListener` that does nothing."""


class OutOfMemory(UserError):
    """A job does not fit into memory.

    Attributes:
        learner: name of the network that was trained.
    """

    def __init__(self, message: str, learner: str = "") -> None:
        super().__init__(message)
        self.learner = learner

    @classmethod
    def for_job(cls, job: TrainingJob, error: BaseException) -> OutOfMemory:
        """The error for a job, from the exception that was raised while it was trained."""
        training, reason = job.spec.training, " ".join(str(error).split())[:120]
        return cls(
            f"job {job.spec.name} does not fit into memory, with a batch of {training.batch} in {training.accumulate} "
            f"part(s) ({reason}); lower training.batch, or raise training.accumulate",
            job.spec.learner.name,
        )


class LocalExecutor:
    """Trains jobs in order, on this machine.

    Args:
        run: the run folder.
        training_data: clips and weak labels.
        labels: the recipe's section ``labels``.
        preprocess: how pixels are normalised.
        process_group: the processes that train one job together.

    Attributes:
        pseudo_labels_by_name: pseudo-labels that were estimated or read so far, by their hash.
    """

    def __init__(
        self,
        run: RunFolder,
        training_data: TrainingData,
        labels: LabelSettings,
        preprocess: Preprocessing,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.run, self.training_data, self.labels, self.preprocess = run, training_data, labels, preprocess
        self.process_group = process_group
        self.pseudo_labels_by_name: dict[str, PseudoLabels] = {}

    def train_all(
        self, jobs: list[TrainingJob], on_progress: ProgressListener = ignore_progress
    ) -> Generator[JobResult]:
        """Train all jobs; closing the generator stops the training.

        Args:
            jobs: the jobs, teachers before learners.
            on_progress: called with a job and an empty row before the job starts, then with each row of its progress.

        Yields:
            The result of each job when it is finished.

        Raises:
            UserError: See `train_job`.
        """
        for job in jobs:
            on_progress(job, {})
            yield self.train_job(job, on_progress)

    def train_job(self, job: TrainingJob, on_progress: ProgressListener = ignore_progress) -> JobResult:
        """Train one job, unless it is finished already.

        Args:
            job: the job; the jobs that it requires are finished.
            on_progress: called with the job and each row of its progress.

        Raises:
            OutOfMemory: The job does not fit into memory.
            UserError: The training diverges (see `skd_edge.distill.trainer.train_job`), a given teacher cannot be
                loaded, or the files of a finished job cannot be read.
        """
        cached = self.run.fetch_job(job.hash)
        if cached:
            self.run.publish_job(job.hash)  # an earlier process may have been killed before it published the job
            self.run.record_event("job_cached", job=job.hash, name=job.spec.name, role=job.spec.role)
        else:
            self._train_and_save(job, on_progress)
        return self._load_result(job, cached)

    def load_network(self, job: TrainingJob) -> AnyNetwork:
        """The trained network of a finished job, in eval mode and without gradients."""
        model = build_learner(job.spec)
        model.load_state_dict(load_file(self.run.job_folder(job.hash) / "weights.safetensors"))
        return model.eval().requires_grad_(False)

    def pseudo_labels(self, job: TrainingJob, folds: tuple[TrainingJob, ...] = ()) -> PseudoLabels:
        """Pseudo-labels estimated by the network of a finished job; stored in the run with the reason for each clip.

        Args:
            job: the job whose network computes features, and predictions unless there are ``folds``.
            folds: finished jobs that each left out a part of the clips; each predicts the clips that it left out.
        """
        job_hashes = [job.hash, *(f.hash for f in folds)]
        name = json_digest(
            {"by": job_hashes, "weak": self.training_data.weak_hash, "how": self.labels.pseudo_label_settings}
        )
        if name not in self.pseudo_labels_by_name:
            labels_file = self.run.folder / "labels" / f"{name}.pseudo"
            pseudo = read_pseudo_labels(labels_file)
            if pseudo is None:
                pseudo = self._estimate_pseudo_labels(job, folds)
                _write_pseudo_label_sheet(labels_file.with_name(f"{job.hash}.csv"), pseudo, self.training_data)
                write_pseudo_labels(labels_file, pseudo)  # last: if this file exists, so does the sheet
            self.pseudo_labels_by_name[name] = pseudo
        return self.pseudo_labels_by_name[name]

    def _estimate_pseudo_labels(self, job: TrainingJob, folds: tuple[TrainingJob, ...]) -> PseudoLabels:
        clips, file_logits = self.training_data.clips.train, self._read_logits_file(job, "train")
        features = (
            extract_features(self.load_network(job), clips, self.preprocess) if file_logits is None else file_logits
        )
        class_probabilities = self._predict_training_probabilities(job, folds)
        return estimate_pseudo_labels(
            self.training_data.given_labels,
            class_probabilities,
            features,
            self.labels,
            self.training_data.trusted,
            clips.groups,
        )

    # -------------------------------------------------------------------------------------------- one job
    def _train_and_save(self, job: TrainingJob, on_progress: ProgressListener) -> None:
        spec, folder = job.spec, self.run.job_folder(job.hash)
        folder.mkdir(parents=True, exist_ok=True)
        self.run.record_event("job_started", job=job.hash, name=spec.name, role=spec.role, teacher=spec.teacher)
        val_logits = self._read_logits_file(job, "val")
        if val_logits is not None:
            trained = TrainResult(None, _compute_accuracy(val_logits, self.training_data), [], 0.0)
        else:
            try:
                trained = self._load_given_network(job) if spec.given else self.train_network(job, on_progress)
            except (MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                raise OutOfMemory.for_job(job, error) from error
            assert trained.network is not None
            val_logits = predict(trained.network, self.training_data.clips.val, self.preprocess)
            # Cloned: an external network may have one tensor under two names, which the file format does not allow.
            weights = {name: tensor.cpu().contiguous().clone() for name, tensor in trained.network.state_dict().items()}
            write_atomic(folder / "weights.safetensors", save(weights))
        if trained.ema_predictions is not None:
            _save_array(folder / "memory.npy", trained.ema_predictions)
        _save_array(folder / "val_logits.npy", val_logits)
        details = {
            "job": job.hash,
            "name": spec.name,
            "role": spec.role,
            "accuracy": trained.accuracy,
            "seconds": round(trained.seconds, 3),
            "curve": trained.curve,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "processes": self.process_group.size,
        }
        files = sorted(path.name for path in folder.iterdir() if path.name in _JOB_FILES)
        # Last: it marks the job as finished, and has the checksums of its files.
        write_checked_json(folder / JOB_FILE, {**details, "files": describe_files(folder, files)})
        (folder / "state.pt").unlink(missing_ok=True)
        self.run.publish_job(job.hash)
        self.run.record_event(
            "job_finished",
            job=job.hash,
            name=spec.name,
            role=spec.role,
            accuracy=trained.accuracy,
            seconds=round(trained.seconds, 2),
        )

    def train_network(self, job: TrainingJob, on_progress: ProgressListener = ignore_progress) -> TrainResult:
        """Train the network of a job, also if the job is finished; only checkpoints and pseudo-labels are written.

        Args:
            job: the job; the jobs that it requires are finished.
            on_progress: called with the job and each row of its progress.

        Raises:
            UserError: See `skd_edge.distill.trainer.train_job`.
        """
        began = time.perf_counter()
        targets = self._compute_targets(job)
        label_seconds = time.perf_counter() - began
        inputs = TrainingInputs(
            self.training_data.clips,
            targets,
            self.preprocess,
            self._make_teacher_outputs(job.teacher, job.spec) if job.teacher else None,
            tuple(self._make_teacher_outputs(other, job.spec) for other in job.others),
            self.load_network(job.start).state_dict() if job.start else None,
        )
        trained = train_job(
            job.spec,
            inputs,
            self.run.job_folder(job.hash),
            on_progress=lambda row: self._record_progress(job, row, on_progress),
            process_group=self.process_group,
        )
        # The first job that needs some pseudo-labels also estimates them; this is part of its duration.
        return replace(trained, seconds=trained.seconds + label_seconds)

    def _record_progress(self, job: TrainingJob, row: TrainingProgress, on_progress: ProgressListener) -> None:
        if "note" in row:  # the trainer lowered the learning rate, because the loss was not finite
            self.run.record_event("slowed_down", job=job.hash, name=job.spec.name, reason=row["note"])
        on_progress(job, row)

    def _load_given_network(self, job: TrainingJob) -> TrainResult:
        """Load a teacher that was trained elsewhere, and score it on the validation clips.

        Raises:
            UserError: The weights do not fit the network that the recipe describes.
        """
        teacher, model = job.spec.learner, build_learner(job.spec)
        assert isinstance(teacher, Teacher)
        if teacher.checkpoint is not None:
            made = "factory, arguments" if teacher.factory else teacher.source
            shape = made or "family, width, depths, temporal, classes"
            try:
                load_weights(
                    unwrap_adapter(model),
                    teacher.checkpoint,
                    f"the teacher that the recipe describes ({shape})",
                )
            except UserError as error:
                raise UserError(f"teacher.checkpoint {error}") from None
        model.eval()
        return TrainResult(
            model,
            _compute_accuracy(predict(model, self.training_data.clips.val, self.preprocess), self.training_data),
            [],
            0.0,
        )

    def _read_logits_file(self, job: TrainingJob, split: Literal["train", "val"]) -> NDArray[np.float32] | None:
        """Logits of a split's clips ``(N, C)`` for a teacher given by a file of logits; None for other networks."""
        teacher, clips = job.spec.learner, self.training_data.clips
        if not isinstance(teacher, Teacher) or teacher.logits is None:
            return None
        return read_logits_file(teacher.logits, teacher.classes).logits_for(getattr(clips, split).names, clips.classes)

    def _compute_targets(self, job: TrainingJob) -> NDArray[np.float32]:
        if job.labels is not None:
            return self.pseudo_labels(job.labels, job.folds).targets
        weak = self.training_data.given_labels
        # An unlabelled clip has a row of zeros, so it adds nothing to the cross-entropy.
        return np.eye(job.spec.classes, dtype=np.float32)[weak] * (weak >= 0)[:, None]

    def _predict_training_probabilities(self, job: TrainingJob, folds: tuple[TrainingJob, ...]) -> NDArray[np.float32]:
        """Class probabilities of the training clips ``(N, C)``, with as little memorised label noise as possible.

        Fold jobs predict the clips that they left out. Otherwise the mean of the predictions during training is used,
        if the job has stored it, and else the predictions of the trained network. Rows sum to 1.
        """
        clips, predictions_file = self.training_data.clips.train, self.run.job_folder(job.hash) / "memory.npy"
        if folds:
            held_out_fold = assign_folds(clips.groups, len(folds))
            fold_probabilities = [
                self._make_teacher_outputs(f, _without_mixup(f.spec)).mean_probabilities(_AVERAGED_VIEWS) for f in folds
            ]
            q = np.stack(fold_probabilities)[held_out_fold, np.arange(len(clips))]
        elif predictions_file.exists() and not job.spec.augment.mixup:
            q = np.load(predictions_file)  # with mixup, they are predictions for mixtures of two clips
        else:
            q = self._make_teacher_outputs(job, _without_mixup(job.spec)).mean_probabilities(_AVERAGED_VIEWS)
        return np.asarray(q / np.maximum(q.sum(1, keepdims=True), 1e-6), np.float32)

    def _make_teacher_outputs(self, job: TrainingJob, spec: JobSpec) -> TeacherOutputSource:
        """The outputs of a finished job's network (or of its file of logits) for the training views of ``spec``."""
        if (file_logits := self._read_logits_file(job, "train")) is not None:
            return FixedTeacherOutputs(file_logits)
        clips = self.training_data.clips.train
        views = json_digest({"data": clips.hash, "augment": spec.augment.model_dump(), "clip": spec.clip.model_dump()})
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        folder = self.run.teacher_outputs_folder(job.hash, views)
        return TeacherOutputCache(
            self.load_network(job).to(device),
            lambda index, view: training_view(clips, index, view, spec, self.preprocess),
            len(clips),
            folder,
            half_precision=spec.training.cache == "float16",
        )

    def _load_result(self, job: TrainingJob, cached: bool) -> JobResult:
        folder = self.run.job_folder(job.hash)
        try:
            facts = read_checked_json(folder / JOB_FILE)
            logits = np.load(folder / "val_logits.npy")
        except (OSError, ValueError, EOFError, UserError) as error:
            raise UserError(
                f"the finished job {folder} cannot be read ({error}); delete that folder and "
                f"{self.run.cache / 'jobs' / job.hash}, which shares its files, and run again"
            ) from None
        correct = logits.argmax(1) == self.training_data.clips.val.labels
        return JobResult(job, folder, facts["accuracy"], facts["seconds"], cached, facts["curve"], correct)


def check_teacher_floor(teacher: Teacher, result: JobResult) -> None:
    """Check that the teacher reaches the accuracy ``teacher.floor`` of the recipe.

    Raises:
        UserError: The job is a teacher's and its accuracy is below the floor.
    """
    if result.job.spec.role == "teacher" and result.accuracy < teacher.floor:
        raise UserError(
            f"the teacher has {result.accuracy:.1%} accuracy on the validation clips, below teacher.floor "
            f"{teacher.floor:.1%}; train it longer, improve the labels, or lower the floor"
        )


def _compute_accuracy(logits: NDArray[np.float32], training_data: TrainingData) -> float:
    return float((logits.argmax(1) == training_data.clips.val.labels).mean())


# oneDNN, which computes convolutions on the CPU, says no more when its scratch memory cannot be allocated.
_ONEDNN_ALLOCATION_FAILURES = ("could not create a memory object", "could not execute a primitive")


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or numpy could not allocate memory; on the CPU, torch and oneDNN raise a plain RuntimeError."""
    words = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", *_ONEDNN_ALLOCATION_FAILURES)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(w in str(error).lower() for w in words)


def _without_mixup(spec: JobSpec) -> JobSpec:
    return replace(spec, augment=spec.augment.model_copy(update={"mixup": 0.0}))


def _save_array(path: Path, array: NDArray[np.float32]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomic(path, buffer.getvalue())


def _write_pseudo_label_sheet(path: Path, pseudo: PseudoLabels, training_data: TrainingData) -> None:
    """Write a row for each clip: weak label, pseudo-label, its confidence, probability of a wrong weak label, reason.

    The weak label of an unlabelled clip is empty. If weak labels come from votes, further columns have the probability
    of the aggregated label, and the vote of each annotator.
    """
    classes, votes = (*training_data.clips.classes, ""), training_data.votes  # index -1 (no label) is the empty string
    columns = ["clip", "weak", "pseudo", "confidence", "wrong", "why"]
    if votes:
        columns += ["agreed", *(f"vote of {a}" for a in votes.annotators)]
    rows = []
    for i, (name, hard) in enumerate(zip(training_data.clips.train.names, pseudo.hard, strict=True)):
        row = [name, classes[pseudo.weak[i]], classes[hard], f"{pseudo.targets[i, hard]:.4f}", f"{pseudo.wrong[i]:.4f}"]
        row.append(str(pseudo.why[i]))
        if votes:
            row += [f"{votes.consensus.probabilities[i].max():.4f}", *(classes[v] for v in votes.given[i])]
        rows.append(row)
    write_sheet(path, columns, rows)
