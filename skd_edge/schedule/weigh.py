"""From networks to numbers: export each candidate, measure the file, score the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skd_bench.accuracy import Accuracy, logits_of, score
from skd_bench.clips import normalise
from skd_bench.latency import Latency, Target
from skd_bench.runtimes import runtime
from skd_edge.data.gather import Material, deployed_view
from skd_edge.data.store import ClipSet
from skd_edge.models.build import Built, build_network
from skd_edge.models.substages import Deployed
from skd_edge.models.tsm import TSM
from skd_edge.recipe import Network, Recipe
from skd_edge.run import cache_root
from skd_edge.schedule.devices import Device
from skd_export.artefacts import facts, make_artefacts
from skd_export.parity import Bounds, parity, torch_logits, verdict
from skd_export.template import trace_ahead

_BATCH, _NOISE_CLIPS = 50, 8
Progress = Callable[[int, int], None]
Batches = Iterator[NDArray[np.uint8]]


@dataclass(frozen=True)
class Weighed:
    """One file, measured and scored.

    Attributes:
        path: the file.
        latency: single-stream, on the device.
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

    Random weights can be weighed before there are clips: milliseconds depend neither on weights nor on the ranges that
    calibration finds, so noise calibrates their INT8 files. Trained networks need ``material``.

    Args:
        recipe: precisions, calibration, runtime, processes and queries.
        classes: names, in the order of the logits.
        folder: where the files go.
        device: where they are measured; None: this machine.

    Attributes:
        material: the clips that calibrate (training) and score (validation), set once they are gathered.
    """

    material: Material

    def __init__(self, recipe: Recipe, classes: tuple[str, ...], folder: Path, device: Device | None = None) -> None:
        self.recipe, self.classes, self.folder = recipe, classes, folder
        self.graphs = cache_root() / "graphs"
        self.device = device or Device(recipe.bench)
        _, self.preprocess = deployed_view(recipe.clip)

    def export(self, network: Built, name: str, precisions: tuple[str, ...]) -> dict[str, Path]:
        """The files of one trained (or random) network, by precision.

        Raises:
            UserError: See ``make_artefacts``.
        """
        train = self.material.clips.train
        count = min(self.recipe.export.calibration_clips, len(train))
        return self._export(network, name, precisions, partial(self._calibration, count), f"{train.hash}:{count}")

    def export_random(self, network: Built, name: str, precisions: tuple[str, ...]) -> dict[str, Path]:
        """The files of a network with random weights, by precision, as fast as trained ones; no clip is read.

        Raises:
            UserError: See ``make_artefacts``.
        """
        return self._export(network, name, precisions, self._noise, f"noise:{_NOISE_CLIPS}")

    def random_weights(self, network: Network) -> Built:
        """A network nobody trained: as fast as a trained one."""
        classes = len(self.classes)
        return build_network(network, classes=classes, clip=self.recipe.clip, seed=self.recipe.seed).eval()

    def trace_ahead(self, networks: Sequence[Built]) -> None:
        """Trace the networks for ONNX on two cores, before they are exported one by one."""
        own = [Deployed(n).eval() for n in networks if isinstance(n, TSM)]
        trace_ahead(own, self._clip_shape, self.graphs)

    @property
    def _clip_shape(self) -> tuple[int, int, int]:
        return self.recipe.clip.frames, self.recipe.clip.size, self.recipe.clip.size

    def _export(
        self,
        network: Built,
        name: str,
        precisions: tuple[str, ...],
        calibration: Callable[[], Iterator[NDArray[np.float32]]],
        key: str,
    ) -> dict[str, Path]:
        return make_artefacts(
            Deployed(network).eval(),
            precisions,
            self.folder / name.replace(">", "+"),
            clip_shape=self._clip_shape,
            classes=list(self.classes),
            calibration=calibration,
            calibration_key=key,
            reduce_range=True if self.device.saturates else None,
            # What a factory calls may stand anywhere: such a graph is not shared between runs.
            graphs=self.graphs if isinstance(network, TSM) else None,
        )

    def latency(self, files: Mapping[str, Path], progress: Progress | None = None) -> dict[str, Latency]:
        """Single-stream latency of these files by name, interleaved, in fresh processes."""
        bench = self.recipe.bench
        targets = [Target(name, path, bench.runtime) for name, path in files.items()]
        return self.device.measure(targets, progress)

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

    def weigh(self, network: Built, files: Mapping[str, Path], latency: Mapping[str, Latency]) -> dict[str, Weighed]:
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
        return score(logits, clips.labels, list(self.classes), clips.groups.tolist()), logits.argmax(1) == clips.labels

    def _noise(self) -> Iterator[NDArray[np.float32]]:
        frames, height, width = self._clip_shape
        shape = (_NOISE_CLIPS, frames, height, width, 3)
        pixels = np.random.default_rng(self.recipe.seed).integers(0, 256, shape, np.uint8)
        yield normalise(pixels, self.preprocess)

    def _calibration(self, count: int) -> Iterator[NDArray[np.float32]]:
        train = self.material.clips.train
        chosen = np.sort(np.random.default_rng(self.recipe.seed).permutation(len(train))[:count])
        for i in range(0, count, 16):
            yield normalise(train.clips[chosen[i : i + 16]], self.preprocess)


def _batches(clips: ClipSet) -> Batches:
    return (np.asarray(clips.clips[i : i + _BATCH]) for i in range(0, len(clips), _BATCH))
