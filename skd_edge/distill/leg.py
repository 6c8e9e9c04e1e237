"""One leg: a learner trained on labels and, where there is one, by a teacher, substage by substage.

The whole method is the function :func:`loss_terms`; the rest is the loop around it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skd_bench.clips import Preprocess
from skd_bench.errors import UserError
from skd_edge.data.store import Clips, ClipSet
from skd_edge.data.views import batch_view, plain_view
from skd_edge.distill.checkpoint import Checkpoint
from skd_edge.distill.losses.correlation import correlate
from skd_edge.distill.losses.distribution import DistributionLoss
from skd_edge.distill.losses.labels import early_learning, soft_cross_entropy
from skd_edge.distill.losses.logits import distil_logits
from skd_edge.distill.settings import Leg
from skd_edge.distill.teacher import TeacherCache
from skd_edge.models.substages import Staged
from skd_edge.models.tsm import TSM, build

Curve = list[dict[str, Any]]
Report = Callable[[dict[str, Any]], None]
_SETTING = {"early learning": "training.elr"}  # where a term's weight is set, if not under training.losses


@dataclass
class Trained:
    """What a leg leaves: the averaged weights that validated best, and how it went."""

    network: TSM
    accuracy: float
    curve: Curve
    seconds: float
    memory: NDArray[np.float32] | None = field(default=None, repr=False)


def loss_terms(
    leg: Leg,
    said: Staged,
    taught: Staged | None,
    targets: Tensor,
    memory: Tensor | None,
    spread: DistributionLoss | None,
) -> dict[str, Tensor]:
    """The method on one screen: the loss terms of one batch, each already times its weight.

    Args:
        leg: the settings.
        said: what the learner says; logits are None while only a prefix of its substages learns.
        taught: what the teacher says of the same views, or None.
        targets: label distributions ``(B, C)``.
        memory: running mean of the learner's own predictions ``(B, C)``, where labels are weak.
        spread: the loss on feature distributions with its projectors, where substages are distilled.
    """
    weights, terms = leg.training.losses, {}
    if said.logits is not None:
        terms["labels"] = weights.labels * soft_cross_entropy(said.logits, targets)
        if memory is not None:
            terms["early learning"] = leg.training.elr * early_learning(said.logits, memory)
        if taught is not None and taught.logits is not None and weights.logits:
            terms["logits"] = weights.logits * distil_logits(
                said.logits, taught.logits, temperature=weights.temperature, standardise=weights.standardise
            )
    if taught is not None and spread is not None:
        theirs = taught.features[: len(said.features)]
        if weights.correlation:
            terms["correlation"] = weights.correlation * correlate(said.features, theirs)
        if weights.distribution:
            terms["distribution"] = weights.distribution * spread(said.features, theirs)
    return terms


def train_leg(
    leg: Leg,
    clips: Clips,
    targets: NDArray[np.float32],
    teacher: TeacherCache | None,
    preprocess: Preprocess,
    folder: Path,
    *,
    start: dict[str, Tensor] | None = None,
    report: Report = lambda row: None,
) -> Trained:
    """Train one leg, or finish one that was interrupted.

    Args:
        leg: what to train.
        clips: training clips, and the validation clips that pick the epoch.
        targets: ``(N, C)`` label distributions of the training clips.
        teacher: what the teacher says of every view, or None.
        preprocess: how pixels become input.
        folder: the leg's folder; a checkpoint of an interrupted run is found and kept there.
        start: weights to begin from.
        report: called after each epoch, and now and then within, with what there is to show.

    Raises:
        UserError: A loss term is no longer finite; names the term and the step.
    """
    return _Training(leg, clips, targets, teacher, preprocess, folder, start, report).run()


class _Training:
    """The state of one leg while it runs."""

    def __init__(
        self,
        leg: Leg,
        clips: Clips,
        targets: NDArray[np.float32],
        teacher: TeacherCache | None,
        preprocess: Preprocess,
        folder: Path,
        start: dict[str, Tensor] | None,
        report: Report,
    ) -> None:
        self.leg, self.clips, self.teacher, self.preprocess, self.report = leg, clips, teacher, preprocess, report
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.learner = build_learner(leg).to(self.device)
        if start is not None:
            self.learner.load_state_dict(start)
        self.averaged = build_learner(leg).to(self.device).eval().requires_grad_(False)
        self.averaged.load_state_dict(self.learner.state_dict())
        self.spread = self._distribution_loss()
        self.targets = torch.from_numpy(targets).to(self.device)
        self.memory = torch.zeros_like(self.targets) if leg.weak and leg.training.elr else None
        self.batches = max(len(clips.train) // leg.training.batch, 1)
        self.total = leg.epochs * self.batches
        self.optimizer = torch.optim.AdamW(
            self._parameters(), lr=leg.training.rate, weight_decay=leg.training.weight_decay, fused=True
        )
        self.step, self.seconds, self.curve = 0, 0.0, Curve()
        self.best, self.best_accuracy = {k: v.clone() for k, v in self.averaged.state_dict().items()}, -1.0
        self.checkpoint = Checkpoint(folder / "state.pt")

    def run(self) -> Trained:
        """Every epoch that is left, then the best averaged weights."""
        self._resume()
        for epoch in range(len(self.curve), self.leg.epochs):
            began = time.perf_counter()
            terms = self._epoch(epoch, began)
            accuracy = self._validate() if epoch >= self.leg.epochs // 2 else None
            self.seconds += time.perf_counter() - began
            self.curve.append({"epoch": epoch + 1, "loss": sum(terms.values()), "terms": terms, "accuracy": accuracy})
            self.report({**self.curve[-1], "epochs": self.leg.epochs, "seconds": self.seconds, "share": 1.0})
            self.checkpoint.save(self._state, last=epoch + 1 == self.leg.epochs)
        self.averaged.load_state_dict(self.best)
        memory = None if self.memory is None else self.memory.cpu().numpy()
        return Trained(self.averaged, self.best_accuracy, self.curve, self.seconds, memory)

    # -------------------------------------------------------------------------------------------- one epoch
    def _epoch(self, epoch: int, began: float) -> dict[str, float]:
        self.learner.train()
        view, sums, counts = epoch % self.leg.augment.views, dict[str, Tensor](), dict[str, int]()
        said = self.teacher.view(view) if self.teacher else None
        for number, index in enumerate(self._order(epoch)):
            taught = said.rows(index, self.device) if said else None
            terms = self._train_step(index, view, taught)
            for name, term in terms.items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + term.detach()
                counts[name] = counts.get(name, 0) + 1
            if number % 8 == 0:
                share = (number + 1) / self.batches
                self.report(
                    {
                        "epoch": epoch + 1,
                        "epochs": self.leg.epochs,
                        "share": share,
                        "seconds": self.seconds + time.perf_counter() - began,
                    }
                )
        means = {name: float(total) / counts[name] for name, total in sums.items()}
        if bad := [name for name, mean in means.items() if not math.isfinite(mean)]:
            setting = _SETTING.get(bad[0], f"training.losses.{bad[0]}")
            raise UserError(
                f"leg {self.leg.name} ({self.leg.hash}): the {bad[0]!r} loss is not finite in epoch {epoch + 1} "
                f"(step {self.step}); lower training.rate, or set {setting} lower"
            )
        return means

    def _train_step(self, index: NDArray[np.int64], view: int, taught: Staged | None) -> dict[str, Tensor]:
        leg, rows = self.leg, torch.from_numpy(index).to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = leg.training.rate * _one_cycle(self.step / self.total)
        clip = view_of(self.clips.train, index, view, leg, self.preprocess).to(self.device)
        said = self.learner(clip, self._upto())
        memory = self._remember(rows, said.logits)
        terms = loss_terms(leg, said, taught, self.targets[rows], memory, self.spread)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        self.optimizer.step()
        self.step += 1
        self._average()
        return terms

    def _upto(self) -> int | None:
        """Curriculum: how many substages learn at this step; None when all do, with head and logits."""
        losses = self.leg.training.losses
        teaches = self.spread is not None and (losses.correlation or losses.distribution)  # else no term is left
        share = self.leg.training.prefix if teaches else 0.0
        done = self.step / self.total
        return int(done / share * len(self.learner.widths)) + 1 if done < share else None

    def _order(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        """Batches of row numbers; the order depends on the seed and the epoch alone."""
        order = np.random.default_rng((self.leg.seed, epoch, 17)).permutation(len(self.clips.train))
        size = self.leg.training.batch
        return (order[b * size : (b + 1) * size] for b in range(self.batches))

    def _remember(self, rows: Tensor, logits: Tensor | None) -> Tensor | None:
        if self.memory is None or logits is None:
            return None
        self.memory[rows] = 0.7 * self.memory[rows] + 0.3 * torch.softmax(logits.detach().float(), 1)
        return self.memory[rows]

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.leg.training.ema, (1 + self.step) / (10 + self.step))
        mine, theirs = list(self.averaged.state_dict().values()), list(self.learner.state_dict().values())
        floats = [i for i, v in enumerate(mine) if v.is_floating_point()]
        torch._foreach_lerp_([mine[i] for i in floats], [theirs[i] for i in floats], 1 - decay)

    # -------------------------------------------------------------------------------------------- around it
    def _validate(self) -> float:
        logits = predict(self.averaged, self.clips.val, self.preprocess)
        accuracy = float((logits.argmax(1) == self.clips.val.labels).mean())
        if accuracy >= self.best_accuracy:
            self.best, self.best_accuracy = {k: v.clone() for k, v in self.averaged.state_dict().items()}, accuracy
        return accuracy

    def _distribution_loss(self) -> DistributionLoss | None:
        if self.teacher is None or not self.leg.staged:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.leg.seed)
            widths = tuple(f.shape[2] for f in self.teacher.view(0).features)
            return DistributionLoss(self.learner.widths, widths).to(self.device)

    def _parameters(self) -> list[nn.Parameter]:
        return [*self.learner.parameters(), *(self.spread.parameters() if self.spread else ())]

    def _state(self) -> dict[str, Any]:
        return {
            "learner": self.learner.state_dict(), "averaged": self.averaged.state_dict(), "best": self.best,
            "best_accuracy": self.best_accuracy, "optimizer": self.optimizer.state_dict(), "step": self.step,
            "seconds": self.seconds, "curve": self.curve, "memory": self.memory,
            "spread": self.spread.state_dict() if self.spread else None,
        }  # fmt: skip

    def _resume(self) -> None:
        state = self.checkpoint.load()
        if state is None:
            return
        self.learner.load_state_dict(state["learner"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.best_accuracy = state["best"], state["best_accuracy"]
        self.step, self.seconds, self.curve, self.memory = (
            state["step"],
            state["seconds"],
            state["curve"],
            state["memory"],
        )
        if self.spread is not None:
            self.spread.load_state_dict(state["spread"])


def build_learner(leg: Leg) -> TSM:
    """The leg's network; its first weights depend on the seed and its shape alone, the same for every method."""
    return build(leg.learner, classes=leg.classes, frames=leg.clip.frames, size=leg.clip.size, seed=leg.seed)


def view_of(clips: ClipSet, index: NDArray[np.int64], view: int, leg: Leg, preprocess: Preprocess) -> Tensor:
    """The training clips ``index (B,)`` in one view, as input ``(B, 3, T, H, W)``."""
    return batch_view(clips.clips[index], clips.ids[index], view, leg.augment, preprocess)


def predict(network: TSM, clips: ClipSet, preprocess: Preprocess) -> NDArray[np.float32]:
    """Logits ``(N, C)`` of the plain view, the one that devices see."""

    def logits(said: Staged) -> Tensor:
        assert said.logits is not None
        return said.logits

    return _plainly(network, clips, preprocess, logits)


def look(network: TSM, clips: ClipSet, preprocess: Preprocess) -> NDArray[np.float32]:
    """The last substage's features of the plain view, averaged over time: ``(N, C_K)``."""
    return _plainly(network, clips, preprocess, lambda said: said.features[-1].mean(1))


@torch.no_grad()
def _plainly(
    network: TSM, clips: ClipSet, preprocess: Preprocess, part: Callable[[Staged], Tensor], batch: int = 128
) -> NDArray[np.float32]:
    device = next(network.parameters()).device
    parts = [
        part(network(plain_view(clips.clips[i : i + batch], preprocess).to(device))).float().cpu()
        for i in range(0, len(clips), batch)
    ]
    return np.asarray(torch.cat(parts).numpy())


def _one_cycle(done: float, warm: float = 0.15) -> float:
    """Learning rate as a share of its peak: a linear rise over the first ``warm``, then half a cosine to zero."""
    if done < warm:
        return 0.05 + 0.95 * done / warm
    return 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm)))
