"""One leg: a learner trained on labels and, where there is one, by a teacher, substage by substage.

What is learned stands in ``method.py``; this is the loop around it.
"""

from __future__ import annotations

import copy
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

from skd_bench.errors import UserError
from skd_bench.video.clip import Preprocess
from skd_edge.data.augmentation import batch_view, partners, plain_view
from skd_edge.data.sampling import balanced
from skd_edge.data.store.clip_store import Clips, ClipSet
from skd_edge.distill.checkpoint import Checkpoint
from skd_edge.distill.distributed import Team
from skd_edge.distill.fake_quant import round_in_forward
from skd_edge.distill.grafting import Graft
from skd_edge.distill.job import Leg
from skd_edge.distill.losses.distribution import DistributionLoss
from skd_edge.distill.objective import WHOLE, Phase, graft_term, loss_terms, matched, phase_at
from skd_edge.distill.teacher_outputs import Answers, Said
from skd_edge.models.builder import Built, build_network
from skd_edge.models.substages import Staged
from skd_edge.models.tsm import TSM

Curve = list[dict[str, Any]]
ALONE = Team()
Report = Callable[[dict[str, Any]], None]
_SETTING = {"early learning": "training.elr", "graft": "training.losses.logits"}  # else training.losses.<term>


@dataclass
class Trained:
    """What a leg leaves: the averaged weights that validated best (a file of answers has none), and how it went."""

    network: Built | None
    accuracy: float
    curve: Curve
    seconds: float
    memory: NDArray[np.float32] | None = field(default=None, repr=False)


class Diverged(ArithmeticError):
    """A loss term is not finite."""

    def __init__(self, term: str, step: int) -> None:
        super().__init__(f"the {term!r} loss is not finite at step {step}")
        self.term, self.step = term, step


def train_leg(
    leg: Leg,
    clips: Clips,
    targets: NDArray[np.float32],
    teacher: Answers | None,
    preprocess: Preprocess,
    folder: Path,
    *,
    others: tuple[Answers, ...] = (),
    start: dict[str, Tensor] | None = None,
    report: Report = lambda row: None,
    team: Team = ALONE,
) -> Trained:
    """Train one leg, or finish one that was interrupted.

    Args:
        leg: what to train.
        clips: training clips, and the validation clips that pick the epoch.
        targets: ``(N, C)`` label distributions of the training clips; a row of zeros is a clip without a label.
        teacher: what the teacher says of every view, or None.
        preprocess: how pixels become input.
        folder: the leg's folder; a checkpoint of an interrupted run is found and kept there.
        others: the teachers further up the cascade, where guidance is dense.
        start: weights to begin from.
        report: called after each epoch, and now and then within, with what there is to show.
        team: the processes that train it together.

    Raises:
        UserError: A loss term is no longer finite, also at half the rate; names the term and the step.
    """
    return _Training(leg, clips, targets, teacher, others, preprocess, folder, start, report, team).run()


class _Training:
    """The state of one leg while it runs."""

    def __init__(
        self,
        leg: Leg,
        clips: Clips,
        targets: NDArray[np.float32],
        teacher: Answers | None,
        others: tuple[Answers, ...],
        preprocess: Preprocess,
        folder: Path,
        start: dict[str, Tensor] | None,
        report: Report,
        team: Team = ALONE,
    ) -> None:
        self.team = team
        self.leg, self.clips, self.teacher, self.others = leg, clips, teacher, others
        self.preprocess, self.report = preprocess, report
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.learner = team.convert(build_learner(leg)).to(self.device)
        if start is not None:
            self.learner.load_state_dict(start)
        self.averaged = build_learner(leg).to(self.device).eval().requires_grad_(False)
        self.averaged.load_state_dict(self.learner.state_dict())
        if leg.rounded:
            for network in (self.learner, self.averaged):
                round_in_forward(network, leg.rounded)
        # Listed once: weights are loaded in place, and to walk through a network's modules at every step takes time.
        self.followed = [[v for v in n.state_dict().values() if v.is_floating_point()]
                         for n in (self.averaged, self.learner)]  # fmt: skip
        self.spread, self.graft = self._helpers()
        self.targets = torch.from_numpy(targets).to(self.device)
        self.memory = torch.zeros_like(self.targets) if leg.weak and leg.training.elr else None
        self.rows = rows_of(leg, clips.train)
        self.batches = max(len(self.rows) // leg.training.batch, 1)
        self.total = leg.epochs * self.batches
        self.optimizer = torch.optim.AdamW(
            self._parameters(), lr=leg.training.rate, weight_decay=leg.training.weight_decay, fused=True
        )
        self.step, self.seconds, self.pace, self.curve = 0, 0.0, 1.0, Curve()
        self.best, self.best_accuracy = {k: v.clone() for k, v in self.averaged.state_dict().items()}, -1.0
        self.checkpoint = Checkpoint(folder / "state.pt")

    def run(self) -> Trained:
        """Every epoch that is left, then the best averaged weights."""
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers are not ours to move
            return self._run()

    def _run(self) -> Trained:
        self._resume(self.checkpoint.load())
        while (epoch := len(self.curve)) < self.leg.epochs:
            began, good = time.perf_counter(), copy.deepcopy(self._state())
            try:
                self._whole_epoch(epoch, began)
            except Diverged as diverged:
                self._slow_down(diverged, epoch, good)
            except KeyboardInterrupt:  # paused: Ctrl-C, or SIGTERM where the command line runs
                self.checkpoint.save(good.copy, last=False, now=True)
                raise
        self.averaged.load_state_dict(self.best)
        memory = None if self.memory is None else self.memory.cpu().numpy()
        return Trained(self.averaged, self.best_accuracy, self.curve, self.seconds, memory)

    # -------------------------------------------------------------------------------------------- one epoch
    def _whole_epoch(self, epoch: int, began: float) -> None:
        """One epoch, its validation in the second half of the leg, its line of the curve, and a checkpoint in time."""
        terms = self._epoch(epoch, began)
        accuracy = self._validate() if epoch >= self.leg.epochs // 2 else None
        self.seconds += time.perf_counter() - began
        row = {"epoch": epoch + 1, "loss": sum(terms.values()), "terms": terms, "accuracy": accuracy}
        self.curve.append(row | ({"pace": self.pace} if self.pace < 1 else {}))
        self.report({**self.curve[-1], "epochs": self.leg.epochs, "seconds": self.seconds, "share": 1.0})
        self.checkpoint.save(self._state, last=epoch + 1 == self.leg.epochs or self.team.rank > 0)

    def _epoch(self, epoch: int, began: float) -> dict[str, float]:
        self.learner.train()
        torch.manual_seed(1_000_003 * self.leg.seed + epoch)  # dropout, where a network made elsewhere has it
        view, sums, counts = epoch % self.leg.augment.views, dict[str, Tensor](), dict[str, int]()
        said = self.teacher.view(view) if self.teacher else None
        for number, index in enumerate(self._order(epoch)):
            for name, term in self._train_step(index, view, said).items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + term
                counts[name] = counts.get(name, 0) + 1
            if number % 8 == 0:
                share, seconds = (number + 1) / self.batches, self.seconds + time.perf_counter() - began
                self.report({"epoch": epoch + 1, "epochs": self.leg.epochs, "share": share, "seconds": seconds})
        if not all(p.isfinite().all() for p in self._parameters()):  # the last step's gradients were not
            raise Diverged("total", self.step)
        return {name: float(total) / counts[name] for name, total in sums.items()}

    def _train_step(self, index: NDArray[np.int64], view: int, said: Said | None) -> dict[str, Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.pace * self.leg.training.rate * _one_cycle(self.step / self.total)
        self.optimizer.zero_grad(set_to_none=True)
        terms = dict[str, Tensor]()
        for part in np.array_split(index, self.leg.training.accumulate):
            share = len(part) / len(index)
            for name, term in self._backward(part, view, said, share).items():
                terms[name] = terms[name] + share * term if name in terms else share * term
        self.team.settle(self._parameters(), self.learner.buffers())
        self.optimizer.step()
        self.step += 1
        self._average()
        return terms

    def _backward(self, index: NDArray[np.int64], view: int, said: Said | None, share: float) -> dict[str, Tensor]:
        """Add the gradients of the clips ``index (B,)``, this share of the batch; returns their loss terms."""
        mine = self.team.part(index)
        clip = view_of(self.clips.train, mine, view, self.leg, self.preprocess).to(self.device)
        taught = said.rows(index, self.device) if said else None
        terms = self._terms(phase_at(self.leg, self.step / self.total), clip, index, view, taught)
        loss = torch.stack(list(terms.values())).sum()
        if not loss.isfinite():
            raise Diverged(next((n for n, t in terms.items() if not t.isfinite()), "total"), self.step + 1)
        (share * loss).backward()
        return {name: term.detach() for name, term in terms.items()}

    def _terms(
        self, phase: Phase, clip: Tensor, index: NDArray[np.int64], view: int, taught: Staged | None
    ) -> dict[str, Tensor]:
        answer = self.team.gather(self.learner(clip, phase.upto))
        if phase.grafted and self.graft is not None:
            assert answer.last is not None
            assert phase.upto is not None
            assert taught is not None
            return graft_term(self.leg, self.graft(answer.last, phase.upto), taught)
        memory = self._remember(torch.from_numpy(index).to(self.device), answer.logits)
        others = self._listen(index, view) if phase == WHOLE else ()
        return loss_terms(self.leg, answer, taught, self._labels(index, view), memory, self.spread, others)

    def _labels(self, index: NDArray[np.int64], view: int) -> Tensor:
        """Label distributions ``(B, C)`` of the view: of the clips, or of the mix where clips are mixed."""
        targets = self.targets[torch.from_numpy(index).to(self.device)]
        if not self.leg.augment.mixup:
            return targets
        train = self.clips.train
        rows, share = partners(train.ids[index], self.rows, view, self.leg.augment.mixup)
        return torch.lerp(self.targets[torch.from_numpy(rows)], targets, share.to(self.device)[:, None])

    def _listen(self, index: NDArray[np.int64], view: int) -> tuple[Tensor, ...]:
        """Logits of the teachers further up that this step listens to; which ones depends on seed and step alone."""
        chance = np.random.default_rng((self.leg.seed, self.step, 23)).random(len(self.others))
        heard = [t for t, c in zip(self.others, chance, strict=True) if c < self.leg.training.dense]
        said = (t.view(view).rows(index, self.device).logits for t in heard)
        return tuple(logits for logits in said if logits is not None)

    def _order(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        """Batches of row numbers; the order depends on the seed and the epoch alone."""
        rng, rows = np.random.default_rng((self.leg.seed, epoch, 17)), self.rows
        if balance := self.leg.training.balance:
            rows = rows[balanced(self.targets[torch.from_numpy(rows)].cpu().numpy(), balance, rng)]
        order = rows[rng.permutation(len(rows))]
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
        torch._foreach_lerp_(self.followed[0], self.followed[1], 1 - decay)

    # -------------------------------------------------------------------------------------------- around it
    def _slow_down(self, diverged: Diverged, epoch: int, good: dict[str, Any]) -> None:
        """Back to the last good state, at half the rate; the second time is the last.

        The leg keeps its hash: the same settings diverge at the same step, and are slowed down by the same rule.
        """
        if self.pace < 1:
            setting = _SETTING.get(diverged.term, f"training.losses.{diverged.term}")
            raise UserError(
                f"leg {self.leg.name} ({self.leg.hash}): {diverged} (epoch {epoch + 1}), also at half the rate; lower "
                f"training.rate{'' if diverged.term == 'total' else f', or set {setting} lower'}"
            ) from None
        self._resume(good)
        self.pace = 0.5
        self.report({"epoch": epoch + 1, "epochs": self.leg.epochs, "share": 0.0, "seconds": self.seconds,
                     "note": f"{diverged}: going on from the last epoch at half the rate"})  # fmt: skip

    def _validate(self) -> float:
        logits = predict(self.averaged, self.clips.val, self.preprocess)
        accuracy = float((logits.argmax(1) == self.clips.val.labels).mean())
        if accuracy >= self.best_accuracy:
            self.best, self.best_accuracy = {k: v.clone() for k, v in self.averaged.state_dict().items()}, accuracy
        return accuracy

    def _helpers(self) -> tuple[DistributionLoss | None, Graft | None]:
        """Projectors and adapters of a staged leg: they live in training only and are dropped at export."""
        if self.teacher is None or not self.leg.staged:
            return None, None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.leg.seed)
            theirs = tuple(f.shape[2] for f in self.teacher.view(0).features)
            pick = [k - 1 for k in matched(self.leg)]
            ours = tuple(self.learner.widths[k] for k in pick)
            kind = self.leg.training.losses.distribution_kind
            spread = DistributionLoss(ours, tuple(theirs[k] for k in pick), kind=kind).to(self.device)
            graft = None
            if self.leg.training.combination == "graft":
                assert isinstance(self.teacher.network, TSM)
                graft = Graft(self.learner.widths, self.teacher.network).to(self.device)
        return spread, graft

    def _parameters(self) -> list[nn.Parameter]:
        return [p for module in self._modules().values() for p in module.parameters()]

    def _modules(self) -> dict[str, nn.Module]:
        """What the optimiser moves."""
        modules = {"learner": self.learner, "spread": self.spread, "graft": self.graft}
        return {name: module for name, module in modules.items() if module is not None}

    def _state(self) -> dict[str, Any]:
        return {
            "modules": {name: module.state_dict() for name, module in self._modules().items()},
            "averaged": self.averaged.state_dict(), "best": self.best, "best_accuracy": self.best_accuracy,
            "optimizer": self.optimizer.state_dict(), "step": self.step, "seconds": self.seconds, "pace": self.pace,
            "curve": self.curve, "memory": self.memory,
        }  # fmt: skip

    def _resume(self, state: dict[str, Any] | None) -> None:
        if state is None:
            return
        for name, module in self._modules().items():
            module.load_state_dict(state["modules"][name])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in ("best", "best_accuracy", "step", "seconds", "pace", "curve", "memory"):
            setattr(self, name, state[name])
        if self.memory is not None:
            self.memory = self.memory.to(self.device)


def build_learner(leg: Leg) -> Built:
    """The leg's network; its first weights depend on the seed and its shape alone, the same for every method."""
    return build_network(leg.learner, classes=leg.classes, clip=leg.clip, seed=leg.seed, names=leg.names)


def rows_of(leg: Leg, clips: ClipSet) -> NDArray[np.int64]:
    """The rows of the training clips that a leg learns from: all, or all but its own part of k."""
    rows = np.arange(len(clips))
    return rows if leg.fold is None else rows[folds_of(clips.groups, leg.fold[1]) != leg.fold[0]]


def folds_of(groups: NDArray[np.int64], parts: int) -> NDArray[np.int64]:
    """In which of ``parts`` parts each clip lies ``(N,)``, a group in one; the same for every leg."""
    distinct, member = np.unique(groups, return_inverse=True)
    part = np.random.default_rng((len(distinct), parts)).permutation(len(distinct)) % parts
    return np.asarray(part[member], np.int64)


def view_of(clips: ClipSet, index: NDArray[np.int64], view: int, leg: Leg, preprocess: Preprocess) -> Tensor:
    """The training clips ``index (B,)`` in one view, as input ``(B, 3, T, H, W)``; mixed, where the leg mixes clips."""
    plain = batch_view(clips.clips[index], clips.ids[index], view, leg.augment, preprocess)
    if not leg.augment.mixup or view < 0:
        return plain
    rows, share = partners(clips.ids[index], rows_of(leg, clips), view, leg.augment.mixup)
    return torch.lerp(batch_view(clips.clips[rows], clips.ids[rows], view, leg.augment, preprocess), plain,
                      share.view(-1, 1, 1, 1, 1))  # fmt: skip


def predict(network: Built, clips: ClipSet, preprocess: Preprocess) -> NDArray[np.float32]:
    """Logits ``(N, C)`` of the plain view, the one that devices see."""

    def logits(said: Staged) -> Tensor:
        assert said.logits is not None
        return said.logits

    return _plainly(network, clips, preprocess, logits)


def look(network: Built, clips: ClipSet, preprocess: Preprocess) -> NDArray[np.float32]:
    """The last substage's features of the plain view, averaged over time: ``(N, C_K)``; without any, the logits."""

    def seen(said: Staged) -> Tensor:
        if said.features:
            return said.features[-1].mean(1)
        assert said.logits is not None
        return said.logits

    return _plainly(network, clips, preprocess, seen)


@torch.no_grad()
def _plainly(
    network: Built, clips: ClipSet, preprocess: Preprocess, part: Callable[[Staged], Tensor], batch: int = 128
) -> NDArray[np.float32]:
    device = next(network.parameters(), torch.zeros(())).device  # an ONNX file has none
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
