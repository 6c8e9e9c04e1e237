"""From networks to numbers: export each candidate, measure the file, score the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skd_bench.accuracy import Accuracy, logits_of, score
from skd_bench.clips import normalise
from skd_bench.latency import Latency, Target, measure_latency
from skd_bench.runtimes import runtime
from skd_edge.data.gather import Material, deployed_view
from skd_edge.data.store import ClipSet
from skd_edge.models.substages import Deployed
from skd_edge.models.tsm import TSM, build
from skd_edge.recipe import Network, Recipe
from skd_export.artefacts import facts, make_artefacts
from skd_export.parity import Bounds, parity, torch_logits, verdict

_BATCH = 50
Progress = Callable[[int, int], None]
Batches = Iterator[NDArray[np.uint8]]


@dataclass(frozen=True)
class Weighed:
    """One file, measured and scored.

    Attributes:
        path: the file.
        latency: single-stream, on this machine.
        accuracy: on the trusted validation clips.
        correct: ``(N,)`` which of them it got right.
        parity: against the trained network, on the same clips.
        refused: why the file is outside its bounds, or None.
        facts: operators as they run, calibration.
    """

    path: Path
    latency: Latency
    accuracy: Accuracy
    correct: NDArray[np.bool_]
    parity: dict[str, Any]
    refused: str | None
    facts: dict[str, Any]


class Scale:
    """Exports networks of a recipe and weighs the files.

    Args:
        recipe: precisions, calibration, runtime, processes and queries.
        material: the clips that calibrate (training) and score (validation).
        folder: where the files go.
    """

    def __init__(self, recipe: Recipe, material: Material, folder: Path) -> None:
        self.recipe, self.material, self.folder = recipe, material, folder
        _, self.preprocess = deployed_view(recipe.clip)

    def export(self, network: TSM, name: str, precisions: tuple[str, ...]) -> dict[str, Path]:
        """The files of one trained (or random) network, by precision.

        Raises:
            UserError: See ``make_artefacts``.
        """
        clip, clips = self.recipe.clip, self.material.clips
        count = min(self.recipe.export.calibration_clips, len(clips.train))
        return make_artefacts(
            Deployed(network).eval(),
            precisions,
            self.folder / name.replace(">", "+"),
            clip_shape=(clip.frames, clip.size, clip.size),
            classes=list(clips.classes),
            calibration=partial(self._calibration, count),
            calibration_key=f"{clips.train.hash}:{count}",
        )

    def random_weights(self, network: Network) -> TSM:
        """A network nobody trained: as fast as a trained one."""
        clip, classes = self.recipe.clip, len(self.material.clips.classes)
        return build(network, classes=classes, frames=clip.frames, size=clip.size, seed=self.recipe.seed).eval()

    def latency(self, files: Mapping[str, Path], progress: Progress | None = None) -> dict[str, Latency]:
        """Single-stream latency of these files by name, interleaved, in fresh processes."""
        bench = self.recipe.bench
        targets = [Target(name, path, bench.runtime) for name, path in files.items()]
        return measure_latency(
            targets, threads=bench.threads, processes=bench.processes, queries=bench.queries, progress=progress
        )

    def logits(self, path: Path, clips: ClipSet) -> NDArray[np.float32]:
        """What a file says of clips ``(N, C)``, through the runtime that ships."""
        session = runtime(self.recipe.bench.runtime).load(path, threads=self.recipe.bench.threads)
        try:
            return logits_of(session, _batches(clips), self.preprocess)
        finally:
            session.close()

    def score(self, path: Path, clips: ClipSet) -> tuple[Accuracy, NDArray[np.bool_]]:
        """Accuracy of a file on clips, and which of them it got right ``(N,)``."""
        return self._scored(self.logits(path, clips), clips)

    def weigh(self, network: TSM, files: Mapping[str, Path], latency: Mapping[str, Latency]) -> dict[str, Weighed]:
        """Score the files of one trained network, by precision; ``latency`` is by precision too."""
        clips = self.material.clips.val
        inputs = (normalise(batch, self.preprocess) for batch in _batches(clips))
        reference = torch_logits(Deployed(network).eval(), inputs)
        bounds = Bounds(agreement=self.recipe.export.int8_agreement, drop=self.recipe.export.int8_drop)
        weighed = {}
        for precision, path in files.items():
            logits = self.logits(path, clips)
            compared = parity(reference, logits, clips.labels)
            accuracy, correct = self._scored(logits, clips)
            weighed[precision] = Weighed(
                path=path,
                latency=latency[precision],
                accuracy=accuracy,
                correct=correct,
                parity=compared,
                refused=verdict(compared, precision, bounds),
                facts=facts(path),
            )
        return weighed

    def _scored(self, logits: NDArray[np.float32], clips: ClipSet) -> tuple[Accuracy, NDArray[np.bool_]]:
        classes = list(self.material.clips.classes)
        return score(logits, clips.labels, classes, clips.groups.tolist()), logits.argmax(1) == clips.labels

    def _calibration(self, count: int) -> Iterator[NDArray[np.float32]]:
        train = self.material.clips.train
        chosen = np.sort(np.random.default_rng(self.recipe.seed).permutation(len(train))[:count])
        for i in range(0, count, 16):
            yield normalise(train.clips[chosen[i : i + 16]], self.preprocess)


def _batches(clips: ClipSet) -> Batches:
    return (np.asarray(clips.clips[i : i + _BATCH]) for i in range(0, len(clips), _BATCH))
