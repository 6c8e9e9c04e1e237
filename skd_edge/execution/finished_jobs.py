"""Reads finished jobs from the run folder: networks, results, teacher outputs, and the pseudo-labels made from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from skd_bench.errors import UserError
from skd_bench.integrity.checked_files import read_checked_json
from skd_bench.video.types import Preprocessing
from skd_edge.data.csv_files import write_sheet
from skd_edge.distill.job import JobSpec, json_digest
from skd_edge.distill.prediction import extract_features
from skd_edge.distill.teacher_outputs import FixedTeacherOutputs, TeacherOutputCache, TeacherOutputSource
from skd_edge.distill.trainer import build_learner
from skd_edge.distill.views import assign_folds, training_view
from skd_edge.execution.job_graph import TrainingJob
from skd_edge.execution.job_results import JobResult
from skd_edge.labels.cleaning.pseudo_label_files import read_pseudo_labels, write_pseudo_labels
from skd_edge.labels.cleaning.pseudo_labels import PseudoLabels, estimate_pseudo_labels
from skd_edge.labels.dataset import TrainingData
from skd_edge.models.builder import AnyNetwork
from skd_edge.models.external.logits_file import read_logits_file
from skd_edge.recipe.labels import LabelSettings
from skd_edge.recipe.schema import Teacher
from skd_edge.run_files.work_lock import lock_work
from skd_edge.run_folder import JOB_FILE, RunFolder

_AVERAGED_VIEWS = 4  # number of augmented views over which a teacher's predictions for a training clip are averaged


class FinishedJobs:
    """The finished jobs of a run.

    Args:
        run: the run folder.
        training_data: clips and weak labels.
        labels: the recipe's section ``labels``.
        preprocess: how pixels are normalised.

    Attributes:
        pseudo_labels_by_name: pseudo-labels that were estimated or read so far, by their hash.
    """

    def __init__(
        self, run: RunFolder, training_data: TrainingData, labels: LabelSettings, preprocess: Preprocessing
    ) -> None:
        self.run, self.training_data, self.labels, self.preprocess = run, training_data, labels, preprocess
        self.pseudo_labels_by_name: dict[str, PseudoLabels] = {}

    def load_result(self, job: TrainingJob, cached: bool) -> JobResult:
        """The result of a finished job; ``cached``: whether it was finished before it was wanted.

        Raises:
            UserError: The job is missing or was damaged, or its files cannot be read.
        """
        self.run.require_job(job.hash)
        folder = self.run.job_folder(job.hash)
        try:
            facts = read_checked_json(folder / JOB_FILE)
            logits = np.load(folder / "val_logits.npy")
        except (OSError, ValueError, EOFError, UserError) as error:
            raise UserError(
                f"the finished job {folder} cannot be read ({error}); delete that folder and "
                f"{self.run.cache / 'jobs' / job.hash}, which shares its files, and run again"
            ) from None
        predictions = logits.argmax(1)
        correct = predictions == self.training_data.clips.val.labels
        return JobResult(job, folder, facts["accuracy"], facts["seconds"], cached, facts["curve"], correct, predictions)

    def load_network(self, job: TrainingJob) -> AnyNetwork:
        """The trained network of a finished job, in eval mode and without gradients.

        Raises:
            UserError: The job is missing or was damaged.
        """
        self.run.require_job(job.hash)
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
                with lock_work(labels_file.with_suffix(".lock"), wait=True):
                    pseudo = read_pseudo_labels(labels_file)  # a job beside this one may have written them
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

    def _predict_training_probabilities(self, job: TrainingJob, folds: tuple[TrainingJob, ...]) -> NDArray[np.float32]:
        """Class probabilities of the training clips ``(N, C)``, with as little memorised label noise as possible.

        Fold jobs predict the clips that they left out. Otherwise the mean of the predictions during training is used,
        if the job has stored it, and else the predictions of the trained network. Rows sum to 1.

        Raises:
            UserError: A job is missing or was damaged.
        """
        self.run.require_job(job.hash)
        clips, predictions_file = self.training_data.clips.train, self.run.job_folder(job.hash) / "memory.npy"
        if folds:
            held_out_fold = assign_folds(clips.groups, len(folds))
            fold_probabilities = [
                self._make_teacher_outputs(f, _without_mixup(f.spec), _AVERAGED_VIEWS).mean_probabilities(
                    _AVERAGED_VIEWS
                )
                for f in folds
            ]
            q = np.stack(fold_probabilities)[held_out_fold, np.arange(len(clips))]
        elif predictions_file.exists() and not job.spec.augment.mixup:
            q = np.load(predictions_file)  # with mixup, they are predictions for mixtures of two clips
        else:
            outputs = self._make_teacher_outputs(job, _without_mixup(job.spec), _AVERAGED_VIEWS)
            q = outputs.mean_probabilities(_AVERAGED_VIEWS)
        return np.asarray(q / np.maximum(q.sum(1, keepdims=True), 1e-6), np.float32)

    def _make_teacher_outputs(self, job: TrainingJob, spec: JobSpec, view_count: int) -> TeacherOutputSource:
        """The outputs of a finished job's network, or of its file of logits, for the training views of ``spec``."""
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
            view_count=view_count,
        )

    def _read_logits_file(self, job: TrainingJob, split: Literal["train", "val"]) -> NDArray[np.float32] | None:
        """Logits of a split's clips ``(N, C)`` for a teacher given by a file of logits; None for other networks."""
        teacher, clips = job.spec.learner, self.training_data.clips
        if not isinstance(teacher, Teacher) or teacher.logits is None:
            return None
        return read_logits_file(teacher.logits, teacher.classes).logits_for(getattr(clips, split).names, clips.classes)


def _without_mixup(spec: JobSpec) -> JobSpec:
    return replace(spec, augment=spec.augment.model_copy(update={"mixup": 0.0}))


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
