"""The training loop of one job: epochs, validation, checkpoints, and recovery from a loss that is not finite.

The loss terms and the phases of the training are defined in ``objective.py``.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from skd_bench.errors import UserError
from skd_bench.video.types import Preprocessing
from skd_edge.data.augmentation import choose_mixup_partners
from skd_edge.data.sampling import draw_balanced_rows
from skd_edge.data.store.clip_store import ClipDataset
from skd_edge.distill.auxiliary import build_auxiliary_modules
from skd_edge.distill.checkpoint import Checkpoint, EpochMetrics, TrainingCurve, TrainingState
from skd_edge.distill.distributed import ProcessGroup
from skd_edge.distill.fake_quant import enable_fake_quant
from skd_edge.distill.job import JobSpec
from skd_edge.distill.objective import (
    FULL_NETWORK,
    TrainingPhase,
    compute_graft_term,
    compute_loss_terms,
    phase_at,
)
from skd_edge.distill.prediction import predict
from skd_edge.distill.teacher_outputs import TeacherOutputs, TeacherOutputSource
from skd_edge.distill.views import training_rows, training_view
from skd_edge.distill.weight_selection import WeightSelection
from skd_edge.models.builder import AnyNetwork, build_network
from skd_edge.models.substages import SubstageOutput

SINGLE_PROCESS = ProcessGroup()
_SETTING_OF_TERM = {
    "early learning": "training.elr",
    "graft": "training.losses.logits",
}  # of other terms: training.losses.<term>


class TrainingProgress(TypedDict, total=False):
    """How far a job is, for display; empty when it begins.

    Attributes:
        epoch: Number of the current epoch, from 1.
        epochs: Number of epochs of the job.
        share: Share of the current epoch that is done, 0..1.
        seconds: Wall time of the training so far.
        terms: Mean of each term of the loss, at the end of an epoch.
        accuracy: Validation accuracy, 0..1, at the end of an epoch; None in epochs without validation.
        note: What the user should know, as a sentence.
    """

    epoch: int
    epochs: int
    share: float
    seconds: float
    terms: dict[str, float]
    accuracy: float | None
    note: str


ProgressCallback = Callable[[TrainingProgress], None]


@dataclass
class TrainResult:
    """The result of a job.

    Attributes:
        network: The learner with the averaged weights that ``training.select`` selects; None where a file of logits
            takes the place of a network.
        accuracy: Validation accuracy of these weights, 0..1.
        curve: The metrics of each epoch.
        seconds: Wall time of the training.
        ema_predictions: ``(N, C)`` running mean of the learner's predictions on the training clips, rows of clips that
            were not trained on are 0; None where labels are not weak.
    """

    network: AnyNetwork | None
    accuracy: float
    curve: TrainingCurve
    seconds: float
    ema_predictions: NDArray[np.float32] | None = field(default=None, repr=False)


class DivergenceError(ArithmeticError):
    """A loss term is not finite; ``total`` stands for the sum, or for the weights after a step."""

    def __init__(self, term: str, step: int) -> None:
        super().__init__(f"the {term!r} loss is not finite at step {step}")
        self.term, self.step = term, step


@dataclass(frozen=True)
class TrainingInputs:
    """What a job learns from.

    Attributes:
        clips: The training clips, and the validation clips that select the epoch.
        targets: ``(N, C)`` label distributions of the training clips; a row of zeros is a clip without a label.
        preprocess: How pixels become input.
        teacher: The teacher outputs, or None.
        other_teachers: The outputs of teachers further up the cascade, where guidance is dense.
        start: State dict that the learner starts from; None: the initial weights of the seed.
    """

    clips: ClipDataset
    targets: NDArray[np.float32]
    preprocess: Preprocessing
    teacher: TeacherOutputSource | None = None
    other_teachers: tuple[TeacherOutputSource, ...] = ()
    start: dict[str, Tensor] | None = None


def train_job(
    spec: JobSpec,
    inputs: TrainingInputs,
    folder: Path,
    *,
    on_progress: ProgressCallback = lambda row: None,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> TrainResult:
    """Train one job, or finish one that was interrupted.

    Args:
        spec: The job.
        inputs: What it learns from.
        folder: The job's folder. Checkpoints are written to it, and the checkpoint of an interrupted run is resumed.
        on_progress: Called with a row for display after each epoch, and every few steps within it.
        process_group: The processes that train the job together.

    Returns:
        The result.

    Raises:
        UserError: A loss term is not finite, again after the learning rate was halved.
    """
    return Trainer(spec, inputs, folder, on_progress, process_group).run()


class Trainer:
    """The training of one job; see `train_job` for the arguments."""

    def __init__(
        self,
        spec: JobSpec,
        inputs: TrainingInputs,
        folder: Path,
        on_progress: ProgressCallback = lambda row: None,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.process_group = process_group
        self.spec, self.clips, self.preprocess = spec, inputs.clips, inputs.preprocess
        self.teacher, self.other_teachers = inputs.teacher, inputs.other_teachers
        self.on_progress = on_progress
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.learner = process_group.convert_batch_norm(build_learner(spec)).to(self.device)
        if inputs.start is not None:
            self.learner.load_state_dict(inputs.start)
        self.ema_network = build_learner(spec).to(self.device).eval().requires_grad_(False)
        self.ema_network.load_state_dict(self.learner.state_dict())
        if spec.rounded:
            for network in (self.learner, self.ema_network):
                enable_fake_quant(network, spec.rounded)
        # Collected once, because walking through the modules at every step takes time. The lists stay valid, because
        # weights are loaded in place.
        self.ema_and_learner_tensors = [
            [v for v in n.state_dict().values() if v.is_floating_point()] for n in (self.ema_network, self.learner)
        ]
        self.distribution_loss, self.grafted_teacher = build_auxiliary_modules(
            spec, self.learner.widths, self.teacher, self.device
        )
        self.targets = torch.from_numpy(inputs.targets).to(self.device)
        self.ema_predictions = torch.zeros_like(self.targets) if spec.weak and spec.training.elr else None
        self.rows = training_rows(spec, inputs.clips.train)
        self.batches_per_epoch = max(len(self.rows) // spec.training.batch, 1)
        self.total_steps = spec.epochs * self.batches_per_epoch
        self.trainable_parameters = [p for module in self._trainable_modules().values() for p in module.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.trainable_parameters, lr=spec.training.rate, weight_decay=spec.training.weight_decay, fused=True
        )
        self.step, self.seconds, self.rate_scale, self.curve = 0, 0.0, 1.0, TrainingCurve()
        self.selection = WeightSelection({k: v.clone() for k, v in self.ema_network.state_dict().items()})
        self.checkpoint = Checkpoint(folder / "state.pt")

    def run(self) -> TrainResult:
        """Train the remaining epochs and return the averaged weights that ``training.select`` selects."""
        with torch.random.fork_rng(devices=[]):  # leave the caller's random state unchanged
            return self._run_epochs()

    def _run_epochs(self) -> TrainResult:
        self._restore_state(self.checkpoint.load())
        good_state = self.copy_state()
        try:
            while (epoch := len(self.curve)) < self.spec.epochs:
                try:
                    self._run_epoch(epoch, time.perf_counter())
                except DivergenceError as diverged:
                    self.recover_at_half_rate(diverged, epoch, good_state)
                good_state = self.copy_state()
        except KeyboardInterrupt:  # Ctrl-C, or SIGTERM under the command line; also between two epochs
            self.checkpoint.save(good_state.copy, last=False, now=True)
            raise
        self._load_selected_weights()
        ema_predictions = None if self.ema_predictions is None else self.ema_predictions.cpu().numpy()
        return TrainResult(self.ema_network, self.selection.accuracy, self.curve, self.seconds, ema_predictions)

    # -------------------------------------------------------------------------------------------- one epoch
    def _run_epoch(self, epoch: int, began: float) -> None:
        """Train one epoch, validate it (in the second half of the job), extend the curve, and save a checkpoint."""
        terms = self._train_epoch(epoch, began)
        accuracy = self._validate_ema_network() if epoch >= self.spec.epochs // 2 else None
        rule, rest = self.spec.training.select, 1 - (epoch + 1) / self.spec.epochs
        self.selection = self.selection.add_epoch(rule, self.ema_network.state_dict(), accuracy, rest)
        self.seconds += time.perf_counter() - began
        row: EpochMetrics = {"epoch": epoch + 1, "loss": sum(terms.values()), "terms": terms, "accuracy": accuracy}
        if self.rate_scale < 1:
            row["pace"] = self.rate_scale
        self.curve.append(row)
        self.on_progress(
            {
                "epoch": epoch + 1,
                "epochs": self.spec.epochs,
                "share": 1.0,
                "seconds": self.seconds,
                "terms": terms,
                "accuracy": accuracy,
            }
        )
        self.checkpoint.save(self._checkpoint_state, last=epoch + 1 == self.spec.epochs or self.process_group.rank > 0)

    def _train_epoch(self, epoch: int, began: float) -> dict[str, float]:
        self.learner.train()
        torch.manual_seed(
            1_000_003 * self.spec.seed + epoch
        )  # for dropout in networks from elsewhere; resuming gives the same numbers
        view, sums, counts = epoch % self.spec.augment.views, dict[str, Tensor](), dict[str, int]()
        teacher_outputs = self.teacher.outputs_for_view(view) if self.teacher else None
        for number, index in enumerate(self._iter_batches(epoch)):
            for name, term in self.train_step(index, view, teacher_outputs).items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + term
                counts[name] = counts.get(name, 0) + 1
            if number % 8 == 0:
                share, seconds = (number + 1) / self.batches_per_epoch, self.seconds + time.perf_counter() - began
                self.on_progress({"epoch": epoch + 1, "epochs": self.spec.epochs, "share": share, "seconds": seconds})
        if not all(p.isfinite().all() for p in self.trainable_parameters):  # a bad gradient in the last step
            raise DivergenceError("total", self.step)
        return {name: float(total) / counts[name] for name, total in sums.items()}

    def train_step_at(
        self, step: int, total_steps: int, index: NDArray[np.int64], teacher_outputs: TeacherOutputs | None
    ) -> dict[str, Tensor]:
        """One step on view 0 as it would be at this place of a job of so many steps; for measurements."""
        self.step, self.total_steps = step, total_steps
        return self.train_step(index, 0, teacher_outputs)

    def train_step(
        self, index: NDArray[np.int64], view: int, teacher_outputs: TeacherOutputs | None
    ) -> dict[str, Tensor]:
        """One step of the optimiser.

        Args:
            index: ``(B,)`` rows of the training clips.
            view: Number of the augmented view.
            teacher_outputs: The teacher outputs of that view; None for a job without a teacher.

        Returns:
            The terms of the loss by name, scalars.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate_scale * self.spec.training.rate * _one_cycle_rate(self.step / self.total_steps)
        self.optimizer.zero_grad(set_to_none=True)
        terms = dict[str, Tensor]()
        for micro_batch in np.array_split(index, self.spec.training.accumulate):
            share = len(micro_batch) / len(index)
            for name, term in self._accumulate_gradients(micro_batch, view, teacher_outputs, share).items():
                terms[name] = terms[name] + share * term if name in terms else share * term
        self.process_group.all_reduce(self.trainable_parameters, self.learner.buffers())
        self.optimizer.step()
        self.step += 1
        self._update_ema_network()
        return terms

    def _accumulate_gradients(
        self, index: NDArray[np.int64], view: int, teacher_outputs: TeacherOutputs | None, share: float
    ) -> dict[str, Tensor]:
        """Add the gradients of the clips ``index (B,)``, a ``share`` of the batch, and return their loss terms."""
        local_index = self.process_group.shard(index)
        clip = training_view(self.clips.train, local_index, view, self.spec, self.preprocess).to(self.device)
        teacher_out = teacher_outputs.take_rows(index, self.device) if teacher_outputs else None
        terms = self._compute_batch_terms(
            phase_at(self.spec, self.step / self.total_steps), clip, index, view, teacher_out
        )
        loss = torch.stack(list(terms.values())).sum()
        if not loss.isfinite():
            raise DivergenceError(next((n for n, t in terms.items() if not t.isfinite()), "total"), self.step + 1)
        (share * loss).backward()
        return {name: term.detach() for name, term in terms.items()}

    def _compute_batch_terms(
        self,
        phase: TrainingPhase,
        clip: Tensor,
        index: NDArray[np.int64],
        view: int,
        teacher_out: SubstageOutput | None,
    ) -> dict[str, Tensor]:
        student_out = self.process_group.all_gather(self.learner(clip, phase.upto))
        if phase.grafted and self.grafted_teacher is not None:
            assert student_out.last_feature_map is not None
            assert phase.upto is not None
            assert teacher_out is not None
            return compute_graft_term(
                self.spec, self.grafted_teacher(student_out.last_feature_map, phase.upto), teacher_out
            )
        ema_predictions = self._update_ema_predictions(torch.from_numpy(index).to(self.device), student_out.logits)
        other_logits = self._sample_other_teachers(index, view) if phase == FULL_NETWORK else ()
        return compute_loss_terms(
            self.spec,
            student_out,
            teacher_out,
            self._label_distributions(index, view),
            ema_predictions,
            self.distribution_loss,
            other_logits,
        )

    def _label_distributions(self, index: NDArray[np.int64], view: int) -> Tensor:
        """Label distributions ``(B, C)`` for the view; with mixup, labels are mixed in the same shares as the clips."""
        targets = self.targets[torch.from_numpy(index).to(self.device)]
        if not self.spec.augment.mixup:
            return targets
        train_clips = self.clips.train
        rows, share = choose_mixup_partners(train_clips.ids[index], self.rows, view, self.spec.augment.mixup)
        return torch.lerp(self.targets[torch.from_numpy(rows)], targets, share.to(self.device)[:, None])

    def _sample_other_teachers(self, index: NDArray[np.int64], view: int) -> tuple[Tensor, ...]:
        """Logits of the teachers further up the cascade that this step uses, chosen by seed and step only."""
        chance = np.random.default_rng((self.spec.seed, self.step, 23)).random(len(self.other_teachers))
        sampled = [t for t, c in zip(self.other_teachers, chance, strict=True) if c < self.spec.training.dense]
        sampled_logits = (t.outputs_for_view(view).take_rows(index, self.device).logits for t in sampled)
        return tuple(logits for logits in sampled_logits if logits is not None)

    def _iter_batches(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        """Batches of row numbers; their order depends on the seed and the epoch only."""
        rng, rows = np.random.default_rng((self.spec.seed, epoch, 17)), self.rows
        if balance := self.spec.training.balance:
            rows = rows[draw_balanced_rows(self.targets[torch.from_numpy(rows)].cpu().numpy(), balance, rng)]
        order = rows[rng.permutation(len(rows))]
        size = self.spec.training.batch
        return (order[b * size : (b + 1) * size] for b in range(self.batches_per_epoch))

    def _update_ema_predictions(self, rows: Tensor, logits: Tensor | None) -> Tensor | None:
        if self.ema_predictions is None or logits is None:
            return None
        self.ema_predictions[rows] = 0.7 * self.ema_predictions[rows] + 0.3 * torch.softmax(logits.detach().float(), 1)
        return self.ema_predictions[rows]

    @torch.no_grad()
    def _update_ema_network(self) -> None:
        decay = min(self.spec.training.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.ema_and_learner_tensors[0], self.ema_and_learner_tensors[1], 1 - decay)

    # ------------------------------------------------------------------------------------------ state and set-up
    def copy_state(self) -> TrainingState:
        """The state now, which further training does not change."""
        return copy.deepcopy(self._checkpoint_state())

    def recover_at_half_rate(self, diverged: DivergenceError, epoch: int, good_state: TrainingState) -> None:
        """Return to the state before the epoch and halve the learning rate; if that was done before, give up.

        The hash of the job stays valid: the same settings diverge at the same step and are handled by the same rule.

        Raises:
            UserError: The rate was halved before.
        """
        if self.rate_scale < 1:
            setting = _SETTING_OF_TERM.get(diverged.term, f"training.losses.{diverged.term}")
            lower_term = "" if diverged.term == "total" else f", or set {setting} lower"
            raise UserError(
                f"job {self.spec.name} ({self.spec.hash}): {diverged} (epoch {epoch + 1}), "
                f"also at half the rate; lower training.rate{lower_term}"
            ) from None
        self._restore_state(good_state)
        self.rate_scale = 0.5
        self.on_progress(
            {
                "epoch": epoch + 1,
                "epochs": self.spec.epochs,
                "share": 0.0,
                "seconds": self.seconds,
                "note": f"{diverged}: continuing from the last epoch at half the rate",
            }
        )

    def _validate_ema_network(self) -> float:
        logits = predict(self.ema_network, self.clips.val, self.preprocess)
        return float((logits.argmax(1) == self.clips.val.labels).mean())

    def _load_selected_weights(self) -> None:
        """Put the result into the averaged network.

        The mean of epochs needs its accuracy and its own batch-norm statistics (SWA, arXiv 1803.05407, section 3.2),
        of the batches of the last epoch: these are balanced as training is.
        """
        self.ema_network.load_state_dict(self.selection.weights)
        if self.spec.training.select != "averaged":
            return
        epoch = self.spec.epochs - 1
        view = epoch % self.spec.augment.views
        clips = (
            training_view(self.clips.train, index, view, self.spec, self.preprocess)
            for index in self._iter_batches(epoch)
        )
        update_bn(clips, self.ema_network, self.device)
        weights = {k: v.clone() for k, v in self.ema_network.state_dict().items()}
        self.selection = replace(self.selection, weights=weights, accuracy=self._validate_ema_network())

    def _trainable_modules(self) -> dict[str, nn.Module]:
        """The modules that are trained; the names are keys of the checkpoint."""
        modules = {"learner": self.learner, "spread": self.distribution_loss, "graft": self.grafted_teacher}
        return {name: module for name, module in modules.items() if module is not None}

    def _checkpoint_state(self) -> TrainingState:
        return {
            "modules": {name: module.state_dict() for name, module in self._trainable_modules().items()},
            "averaged": self.ema_network.state_dict(),
            "best": self.selection.weights,
            "best_accuracy": self.selection.accuracy,
            "selection": self.selection.progress,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "pace": self.rate_scale,
            "curve": self.curve,
            "memory": self.ema_predictions,
        }

    def _restore_state(self, state: TrainingState | None) -> None:
        if state is None:
            return
        for name, module in self._trainable_modules().items():
            module.load_state_dict(state["modules"][name])
        self.ema_network.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        progress = state.get("selection", {"score": state["best_accuracy"], "smoothed": None, "count": 0})
        self.selection = WeightSelection(state["best"], state["best_accuracy"], **progress)
        self.step, self.seconds, self.rate_scale = state["step"], state["seconds"], state["pace"]
        self.curve, self.ema_predictions = state["curve"], state["memory"]
        if self.ema_predictions is not None:
            self.ema_predictions = self.ema_predictions.to(self.device)


def build_learner(spec: JobSpec) -> AnyNetwork:
    """The job's network. Its initial weights depend on seed and architecture only, so all methods start equally."""
    return build_network(spec.learner, classes=spec.classes, clip=spec.clip, seed=spec.seed, names=spec.names)


def _one_cycle_rate(progress: float, warmup_share: float = 0.15) -> float:
    """Learning rate relative to its peak: a linear rise during the first ``warmup_share``, then half a cosine to 0."""
    if progress < warmup_share:
        return 0.05 + 0.95 * progress / warmup_share
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup_share) / (1 - warmup_share)))
