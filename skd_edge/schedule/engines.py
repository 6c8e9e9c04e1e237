"""Where legs are trained. Here: one after the other in this process.

A leg that is finished, in this run or in the cache that runs share, is never trained again.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from skd_bench.clips import Preprocess
from skd_bench.errors import UserError
from skd_bench.files import write_atomic, write_json
from skd_edge.data.gather import Material
from skd_edge.distill.leg import Trained, build_learner, look, predict, train_leg, view_of
from skd_edge.distill.settings import digest
from skd_edge.distill.teacher import TeacherCache
from skd_edge.labels.pseudo import PseudoLabels, optimise
from skd_edge.models.tsm import TSM
from skd_edge.recipe import Labels, Teacher
from skd_edge.run import Run
from skd_edge.schedule.tree import Node

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


class LocalEngine:
    """Trains the nodes of a tree in order, on this machine.

    Args:
        run: the run folder.
        material: clips and weak labels.
        labels: settings of the label optimiser.
        preprocess: how pixels become input.
        report: ``(node, row)`` called while a leg trains.
    """

    def __init__(
        self,
        run: Run,
        material: Material,
        labels: Labels,
        preprocess: Preprocess,
        report: Callable[[Node, dict[str, Any]], None] = lambda node, row: None,
    ) -> None:
        self.run, self.material, self.labels, self.preprocess, self.report = run, material, labels, preprocess, report
        self.pseudo: dict[str, PseudoLabels] = {}

    def train(self, node: Node) -> Finished:
        """Train one node whose teachers are finished, unless it is finished already.

        Raises:
            UserError: See ``train_leg``.
        """
        cached = self.run.fetch(node.hash)
        if cached:
            self.run.journal("leg_cached", leg=node.hash, name=node.leg.name, role=node.leg.role)
        else:
            self._train(node)
        return self._finished(node, cached)

    def network(self, node: Node) -> TSM:
        """The trained network of a finished node, in evaluation mode."""
        model = build_learner(node.leg)
        model.load_state_dict(load_file(self.run.leg_folder(node.hash) / "weights.safetensors"))
        return model.eval().requires_grad_(False)

    def pseudo_labels(self, node: Node) -> PseudoLabels:
        """Pseudo-labels by a finished node's network, kept in the run with the reason for every clip."""
        if node.hash not in self.pseudo:
            clips = self.material.clips.train
            memory = self.run.leg_folder(node.hash) / "memory.npy"
            q = np.load(memory) if memory.exists() else self._teacher(node).probabilities(_VOICES)
            q = q / np.maximum(q.sum(1, keepdims=True), 1e-6)
            features = look(self.network(node), clips, self.preprocess)
            pseudo = optimise(self.material.weak, q, features, self.labels)
            _write_labels(
                self.run.folder / "labels" / f"{node.hash}.csv", pseudo, clips.names, self.material.clips.classes
            )
            self.pseudo[node.hash] = pseudo
        return self.pseudo[node.hash]

    # -------------------------------------------------------------------------------------------- one leg
    def _train(self, node: Node) -> None:
        leg, folder = node.leg, self.run.leg_folder(node.hash)
        folder.mkdir(parents=True, exist_ok=True)
        self.run.journal("leg_started", leg=node.hash, name=leg.name, role=leg.role, teacher=leg.teacher)
        trained = self._given(node) if leg.given else self._learn(node)
        weights = {name: tensor.cpu().contiguous() for name, tensor in trained.network.state_dict().items()}
        write_atomic(folder / "weights.safetensors", save(weights))
        if trained.memory is not None:
            _save_array(folder / "memory.npy", trained.memory)
        _save_array(folder / "val_logits.npy", predict(trained.network, self.material.clips.val, self.preprocess))
        facts = {"leg": node.hash, "name": leg.name, "role": leg.role, "accuracy": trained.accuracy,
                 "seconds": round(trained.seconds, 3), "curve": trained.curve, "threads": torch.get_num_threads(),
                 "torch": torch.__version__}  # fmt: skip
        write_json(folder / "leg.json", facts)  # last: marks the leg as finished
        (folder / "state.pt").unlink(missing_ok=True)
        self.run.publish(node.hash)
        self.run.journal("leg_finished", leg=node.hash, name=leg.name, role=leg.role, accuracy=trained.accuracy,
                         seconds=round(trained.seconds, 2))  # fmt: skip

    def _learn(self, node: Node) -> Trained:
        return train_leg(
            node.leg,
            self.material.clips,
            self._targets(node),
            self._teacher(node.teacher) if node.teacher else None,
            self.preprocess,
            self.run.leg_folder(node.hash),
            start=self.network(node.start).state_dict() if node.start else None,
            report=lambda row: self.report(node, row),
        )

    def _given(self, node: Node) -> Trained:
        """A network trained elsewhere: its weights are read, checked against its shape, and scored."""
        teacher, model = node.leg.learner, build_learner(node.leg)
        assert isinstance(teacher, Teacher)
        assert teacher.checkpoint is not None
        try:
            model.load_state_dict(load_file(teacher.checkpoint))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(
                f"teacher.checkpoint {teacher.checkpoint} does not fit the teacher that the recipe describes "
                f"(family, width, depths, temporal, classes): {str(error).splitlines()[0]}"
            ) from None
        model.eval()
        labels = self.material.clips.val.labels
        accuracy = float((predict(model, self.material.clips.val, self.preprocess).argmax(1) == labels).mean())
        return Trained(model, accuracy, [], 0.0)

    def _targets(self, node: Node) -> NDArray[np.float32]:
        if node.labels is not None:
            return self.pseudo_labels(node.labels).targets
        return np.eye(node.leg.classes, dtype=np.float32)[self.material.weak]

    def _teacher(self, node: Node) -> TeacherCache:
        clips, leg = self.material.clips.train, node.leg
        views = digest({"data": clips.hash, "augment": leg.augment.model_dump(), "clip": leg.clip.model_dump()})
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        folder = self.run.teacher_folder(node.hash, views)
        return TeacherCache(
            self.network(node).to(device),
            lambda index, view: view_of(clips, index, view, leg, self.preprocess),
            len(clips),
            folder,
        )

    def _finished(self, node: Node, cached: bool) -> Finished:
        folder = self.run.leg_folder(node.hash)
        try:
            facts = json.loads((folder / "leg.json").read_text())
            logits = np.load(folder / "val_logits.npy")
        except (OSError, ValueError) as error:
            raise UserError(
                f"the finished leg {folder} cannot be read ({error}); delete that folder and run again"
            ) from None
        correct = logits.argmax(1) == self.material.clips.val.labels
        return Finished(node, folder, facts["accuracy"], facts["seconds"], cached, facts["curve"], correct)


def _save_array(path: Path, array: NDArray[np.float32]) -> None:
    memory = io.BytesIO()
    np.save(memory, array)
    write_atomic(path, memory.getvalue())


def _write_labels(path: Path, pseudo: PseudoLabels, names: tuple[str, ...], classes: tuple[str, ...]) -> None:
    """For each clip: weak label, pseudo-label, its confidence, the posterior that the weak one is wrong, why."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("clip", "weak", "pseudo", "confidence", "wrong", "why"))
    for i, (name, hard) in enumerate(zip(names, pseudo.hard, strict=True)):
        row = (name, classes[pseudo.weak[i]], classes[hard], f"{pseudo.targets[i, hard]:.4f}", f"{pseudo.wrong[i]:.4f}")
        writer.writerow((*row, pseudo.why[i]))
    write_atomic(path, text.getvalue())
