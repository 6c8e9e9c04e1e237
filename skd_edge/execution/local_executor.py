"""Trains jobs one after the other in this process. The other executors are based on it.

A job that is finished in this run, or in the cache that runs share, is not trained again.
"""

from __future__ import annotations

import io
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from skd_bench.device.info import read_cpu_name
from skd_bench.errors import UserError
from skd_bench.files import write_atomic
from skd_bench.integrity.checked_files import describe_files, write_checked_json
from skd_bench.video.types import Preprocessing
from skd_edge.distill.distributed import ProcessGroup
from skd_edge.distill.prediction import predict
from skd_edge.distill.trainer import (
    SINGLE_PROCESS,
    TrainingInputs,
    TrainingProgress,
    TrainResult,
    build_learner,
    train_job,
)
from skd_edge.distill.views import training_rows
from skd_edge.execution.finished_jobs import FinishedJobs
from skd_edge.execution.job_graph import TrainingJob
from skd_edge.execution.job_results import (
    JobResult,
    OutOfMemory,
    ProgressListener,
    ignore_progress,
    is_out_of_memory,
)
from skd_edge.labels.dataset import TrainingData
from skd_edge.models.external.loader import unwrap_adapter
from skd_edge.models.weights import load_weights
from skd_edge.recipe.labels import LabelSettings
from skd_edge.recipe.schema import Teacher
from skd_edge.run_folder import JOB_FILE, RunFolder

_JOB_FILES = {"weights.safetensors", "memory.npy", "val_logits.npy"}


class LocalExecutor(FinishedJobs):
    """Trains jobs in order, on this machine.

    Args:
        run: the run folder.
        training_data: clips and weak labels.
        labels: the recipe's section ``labels``.
        preprocess: how pixels are normalised.
        process_group: the processes that train one job together.
    """

    def __init__(
        self,
        run: RunFolder,
        training_data: TrainingData,
        labels: LabelSettings,
        preprocess: Preprocessing,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        super().__init__(run, training_data, labels, preprocess)
        self.process_group = process_group

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
        return self.load_result(job, cached)

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
                if not is_out_of_memory(error):
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
            "work": self._describe_work(job),
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

    def _describe_work(self, job: TrainingJob) -> dict[str, object]:
        """What the seconds of a job were spent on, for estimates of other jobs (`schedule/recorded_paces.py`)."""
        return {
            "device": read_cpu_name(),
            "learner": job.spec.learner.architecture,
            "clip": job.spec.clip.model_dump(),
            "train_clips": len(training_rows(job.spec, self.training_data.clips.train)),
            "val_clips": len(self.training_data.clips.val),
        }

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
        views = min(job.spec.augment.views, job.spec.epochs)
        inputs = TrainingInputs(
            self.training_data.clips,
            targets,
            self.preprocess,
            self._make_teacher_outputs(job.teacher, job.spec, views) if job.teacher else None,
            tuple(self._make_teacher_outputs(other, job.spec, views) for other in job.others),
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

    def _compute_targets(self, job: TrainingJob) -> NDArray[np.float32]:
        if job.labels is not None:
            return self.pseudo_labels(job.labels, job.folds).targets
        weak = self.training_data.given_labels
        # An unlabelled clip has a row of zeros, so it adds nothing to the cross-entropy.
        return np.eye(job.spec.classes, dtype=np.float32)[weak] * (weak >= 0)[:, None]


def _compute_accuracy(logits: NDArray[np.float32], training_data: TrainingData) -> float:
    return float((logits.argmax(1) == training_data.clips.val.labels).mean())


def _save_array(path: Path, array: NDArray[np.float32]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomic(path, buffer.getvalue())
