"""Where legs are trained. Here: one after the other in this process (``ray_engine`` trains them on a cluster).

A leg that is finished, in this run or in the cache that runs share, is never trained again.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save

from skd_bench.errors import UserError
from skd_bench.files import write_atomic, write_json
from skd_bench.video.clip import Preprocess
from skd_edge.distill.job import Leg, digest
from skd_edge.distill.teacher_outputs import Answers, TeacherCache, ToldAnswers
from skd_edge.distill.trainer import ALONE, Trained, build_learner, folds_of, look, predict, train_leg, view_of
from skd_edge.execution.job_graph import Node
from skd_edge.labels.cleaning.pseudo_labels import PseudoLabels, optimise
from skd_edge.labels.csv_files import write_sheet
from skd_edge.labels.dataset import Material
from skd_edge.labels.kept import read_labels, write_labels
from skd_edge.models.builder import Built
from skd_edge.models.external.loader import parts_of
from skd_edge.models.external.logits_file import read_told
from skd_edge.models.weights import load_weights
from skd_edge.recipe.labels import Labels
from skd_edge.recipe.schema import Teacher
from skd_edge.run_folder import RunFolder

_VOICES = 4  # views that a teacher's opinion about a training clip is averaged over


@dataclass(frozen=True)
class Finished:
    """A leg that is trained: its facts, and where its weights lie."""

    node: Node
    folder: Path
    accuracy: float
    seconds: float
    cached: bool
    curve: list[dict[str, Any]]
    correct: NDArray[np.bool_]


class OutOfMemory(UserError):
    """A leg does not fit into memory; ``learner`` is the name of its network."""

    learner = ""

    @classmethod
    def of(cls, node: Node, error: BaseException) -> OutOfMemory:
        """The leg's node, and what was raised."""
        parts = node.leg.training.batch, node.leg.training.accumulate
        said = cls(
            f"leg {node.leg.name} does not fit into memory, with a batch of {parts[0]} in {parts[1]} part(s) "
            f"({' '.join(str(error).split())[:120]}); lower training.batch, or raise training.accumulate"
        )
        said.learner = node.leg.learner.name
        return said


class LocalEngine:
    """Trains the nodes of a tree in order, on this machine.

    Args:
        run: the run folder.
        material: clips and weak labels.
        labels: settings of the label optimiser.
        preprocess: how pixels become input.
        report: ``(node, row)`` called while a leg trains, with an empty row when it begins.
    """

    def __init__(
        self,
        run: RunFolder,
        material: Material,
        labels: Labels,
        preprocess: Preprocess,
        report: Callable[[Node, dict[str, Any]], None] = lambda node, row: None,
    ) -> None:
        self.run, self.material, self.labels, self.preprocess, self.report = run, material, labels, preprocess, report
        self.pseudo: dict[str, PseudoLabels] = {}
        self.team = ALONE

    def train_all(self, tree: list[Node]) -> Generator[Finished]:
        """Train every node of a tree, teachers first; closing the generator stops the training.

        Yields:
            Legs as they are finished.

        Raises:
            UserError: See ``train_leg``.
        """
        for node in tree:
            self.report(node, {})
            yield self.train(node)

    def train(self, node: Node) -> Finished:
        """Train one node whose teachers are finished, unless it is finished already.

        Raises:
            UserError: See ``train_leg``.
        """
        cached = self.run.fetch(node.hash)
        if cached:
            self.run.publish(node.hash)  # a kill may have come between its last file and this
            self.run.journal("leg_cached", leg=node.hash, name=node.leg.name, role=node.leg.role)
        else:
            self._train(node)
        return self._finished(node, cached)

    def network(self, node: Node) -> Built:
        """The trained network of a finished node, in evaluation mode."""
        model = build_learner(node.leg)
        model.load_state_dict(load_file(self.run.leg_folder(node.hash) / "weights.safetensors"))
        return model.eval().requires_grad_(False)

    def pseudo_labels(self, node: Node, folds: tuple[Node, ...] = ()) -> PseudoLabels:
        """Pseudo-labels by a finished node's network, kept in the run with the reason for every clip.

        Args:
            node: whose network looks at the clips, and whose opinions count.
            folds: whose opinions count instead, each about the clips it never saw.
        """
        by = [node.hash, *(f.hash for f in folds)]
        name = digest({"by": by, "weak": self.material.weak_hash, "how": self.labels.optimiser})
        if name not in self.pseudo:
            kept = self.run.folder / "labels" / f"{name}.npz"
            pseudo = read_labels(kept)
            if pseudo is None:
                pseudo = self._estimate(node, folds)
                _write_sheet(kept.with_name(f"{node.hash}.csv"), pseudo, self.material)
                write_labels(kept, pseudo)  # last: says that both are there
            self.pseudo[name] = pseudo
        return self.pseudo[name]

    def _estimate(self, node: Node, folds: tuple[Node, ...]) -> PseudoLabels:
        clips, told = self.material.clips.train, self._told(node, "train")
        features = look(self.network(node), clips, self.preprocess) if told is None else told
        q = self._opinions(node, folds)
        return optimise(self.material.weak, q, features, self.labels, self.material.trusted, clips.groups)

    # -------------------------------------------------------------------------------------------- one leg
    def _train(self, node: Node) -> None:
        leg, folder = node.leg, self.run.leg_folder(node.hash)
        folder.mkdir(parents=True, exist_ok=True)
        self.run.journal("leg_started", leg=node.hash, name=leg.name, role=leg.role, teacher=leg.teacher)
        said = self._told(node, "val")
        if said is not None:
            trained = Trained(None, _accuracy(said, self.material), [], 0.0)
        else:
            try:
                trained = self._given(node) if leg.given else self._learn(node)
            except (MemoryError, RuntimeError) as error:
                if not _lacks_memory(error):
                    raise
                raise OutOfMemory.of(node, error) from error
            assert trained.network is not None
            said = predict(trained.network, self.material.clips.val, self.preprocess)
            # Cloned: networks made elsewhere may share a tensor under two names, which the file format refuses.
            weights = {name: tensor.cpu().contiguous().clone() for name, tensor in trained.network.state_dict().items()}
            write_atomic(folder / "weights.safetensors", save(weights))
        if trained.memory is not None:
            _save_array(folder / "memory.npy", trained.memory)
        _save_array(folder / "val_logits.npy", said)
        facts = {"leg": node.hash, "name": leg.name, "role": leg.role, "accuracy": trained.accuracy,
                 "seconds": round(trained.seconds, 3), "curve": trained.curve, "threads": torch.get_num_threads(),
                 "torch": torch.__version__, "processes": self.team.size}  # fmt: skip
        write_json(folder / "leg.json", facts)  # last: marks the leg as finished
        (folder / "state.pt").unlink(missing_ok=True)
        self.run.publish(node.hash)
        self.run.journal("leg_finished", leg=node.hash, name=leg.name, role=leg.role, accuracy=trained.accuracy,
                         seconds=round(trained.seconds, 2))  # fmt: skip

    def _learn(self, node: Node) -> Trained:
        began = time.perf_counter()
        targets = self._targets(node)
        labelled = time.perf_counter() - began
        trained = train_leg(
            node.leg,
            self.material.clips,
            targets,
            self._teacher(node.teacher, node.leg) if node.teacher else None,
            self.preprocess,
            self.run.leg_folder(node.hash),
            others=tuple(self._teacher(other, node.leg) for other in node.others),
            start=self.network(node.start).state_dict() if node.start else None,
            report=lambda row: self._tell(node, row),
            team=self.team,
        )
        trained.seconds += labelled  # what a leg costs includes its labels, where it is the first to need them
        return trained

    def _tell(self, node: Node, row: dict[str, Any]) -> None:
        if "note" in row:  # the leg was slowed down
            self.run.journal("slowed_down", leg=node.hash, name=node.leg.name, reason=row["note"])
        self.report(node, row)

    def _given(self, node: Node) -> Trained:
        """A network trained elsewhere: its weights are read, checked against its shape, and scored."""
        teacher, model = node.leg.learner, build_learner(node.leg)
        assert isinstance(teacher, Teacher)
        if teacher.checkpoint is not None:
            made = "factory, arguments" if teacher.factory else teacher.source
            shape = made or "family, width, depths, temporal, classes"
            try:
                load_weights(
                    parts_of(model),
                    teacher.checkpoint,
                    f"the teacher that the recipe describes ({shape})",
                )
            except UserError as error:
                raise UserError(f"teacher.checkpoint {error}") from None
        model.eval()
        return Trained(
            model, _accuracy(predict(model, self.material.clips.val, self.preprocess), self.material), [], 0.0
        )

    def _told(self, node: Node, split: Literal["train", "val"]) -> NDArray[np.float32] | None:
        """Logits of a split's clips ``(N, C)`` from the teacher's file, where that is all there is of it."""
        teacher, clips = node.leg.learner, self.material.clips
        if not isinstance(teacher, Teacher) or teacher.logits is None:
            return None
        return read_told(teacher.logits, teacher.classes).of(getattr(clips, split).names, clips.classes)

    def _targets(self, node: Node) -> NDArray[np.float32]:
        if node.labels is not None:
            return self.pseudo_labels(node.labels, node.folds).targets
        weak = self.material.weak
        # An unlabelled clip has a row of zeros: cross-entropy learns nothing from it.
        return np.eye(node.leg.classes, dtype=np.float32)[weak] * (weak >= 0)[:, None]

    def _opinions(self, node: Node, folds: tuple[Node, ...]) -> NDArray[np.float32]:
        """What networks say of each training clip that have not memorised its label ``(N, C)``; rows sum to 1."""
        clips, memory = self.material.clips.train, self.run.leg_folder(node.hash) / "memory.npy"
        if folds:
            part = folds_of(clips.groups, len(folds))
            each = [self._teacher(f, _unmixed(f.leg)).probabilities(_VOICES) for f in folds]
            q = np.stack(each)[part, np.arange(len(clips))]
        elif memory.exists() and not node.leg.augment.mixup:  # a memory of mixed clips is no opinion of any
            q = np.load(memory)
        else:
            q = self._teacher(node, _unmixed(node.leg)).probabilities(_VOICES)
        return np.asarray(q / np.maximum(q.sum(1, keepdims=True), 1e-6), np.float32)

    def _teacher(self, node: Node, leg: Leg) -> Answers:
        """What a finished node's network, or its file, says of the views that ``leg`` sees."""
        if (told := self._told(node, "train")) is not None:
            return ToldAnswers(told)
        clips = self.material.clips.train
        views = digest({"data": clips.hash, "augment": leg.augment.model_dump(), "clip": leg.clip.model_dump()})
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        folder = self.run.teacher_folder(node.hash, views)
        return TeacherCache(
            self.network(node).to(device),
            lambda index, view: view_of(clips, index, view, leg, self.preprocess),
            len(clips),
            folder,
            half=leg.training.cache == "float16",
        )

    def _finished(self, node: Node, cached: bool) -> Finished:
        folder = self.run.leg_folder(node.hash)
        try:
            facts = json.loads((folder / "leg.json").read_text())
            logits = np.load(folder / "val_logits.npy")
        except (OSError, ValueError) as error:
            raise UserError(
                f"the finished leg {folder} cannot be read ({error}); delete that folder and "
                f"{self.run.cache / 'legs' / node.hash}, which shares its files, and run again"
            ) from None
        correct = logits.argmax(1) == self.material.clips.val.labels
        return Finished(node, folder, facts["accuracy"], facts["seconds"], cached, facts["curve"], correct)


def check_floor(teacher: Teacher, leg: Finished) -> None:
    """Nothing learns from a teacher that is below the recipe's floor.

    Raises:
        UserError: The leg is a teacher and below the floor.
    """
    if leg.node.leg.role == "teacher" and leg.accuracy < teacher.floor:
        raise UserError(
            f"the teacher reaches {leg.accuracy:.1%} on validation, below teacher.floor {teacher.floor:.1%}; train it "
            "longer, give better labels, or lower the floor"
        )


def _accuracy(logits: NDArray[np.float32], material: Material) -> float:
    return float((logits.argmax(1) == material.clips.val.labels).mean())


def _lacks_memory(error: BaseException) -> bool:
    """Whether torch or numpy could not allocate: on the CPU, torch says so in a plain RuntimeError."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(w in str(error).lower() for w in words)


def _unmixed(leg: Leg) -> Leg:
    return replace(leg, augment=leg.augment.model_copy(update={"mixup": 0.0}))


def _save_array(path: Path, array: NDArray[np.float32]) -> None:
    memory = io.BytesIO()
    np.save(memory, array)
    write_atomic(path, memory.getvalue())


def _write_sheet(path: Path, pseudo: PseudoLabels, material: Material) -> None:
    """For each clip: weak label, pseudo-label, its confidence, the posterior that the weak one is wrong, why.

    The weak label of an unlabelled clip is empty. Where it came from votes: how sure they were of it, and each vote.
    """
    classes, votes = (*material.clips.classes, ""), material.votes  # -1, no label, reads the last: ""
    columns = ["clip", "weak", "pseudo", "confidence", "wrong", "why"]
    if votes:
        columns += ["agreed", *(f"vote of {a}" for a in votes.annotators)]
    rows = []
    for i, (name, hard) in enumerate(zip(material.clips.train.names, pseudo.hard, strict=True)):
        row = [name, classes[pseudo.weak[i]], classes[hard], f"{pseudo.targets[i, hard]:.4f}", f"{pseudo.wrong[i]:.4f}"]
        row.append(str(pseudo.why[i]))
        if votes:
            row += [f"{votes.consensus.probabilities[i].max():.4f}", *(classes[v] for v in votes.given[i])]
        rows.append(row)
    write_sheet(path, columns, rows)
