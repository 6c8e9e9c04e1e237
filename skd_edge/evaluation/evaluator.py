"""From networks to numbers: export each candidate, measure the file, score the file."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skd_bench.benchmark.latency import Latency, Target
from skd_bench.benchmark.targets import random_clip
from skd_bench.errors import UserError
from skd_bench.files import sha256_file, write_atomic
from skd_bench.metrics.accuracy import Accuracy, logits_of, score
from skd_bench.runtimes import runtime as runtime_of
from skd_bench.stats import ratio_of_medians
from skd_bench.video.clip import Preprocess, decode_clip, normalise
from skd_edge.data.store.clip_store import ClipSet
from skd_edge.evaluation.devices import Device
from skd_edge.labels.dataset import Material, deployed_view
from skd_edge.models.builder import Built, build_network
from skd_edge.models.substages import Deployed
from skd_edge.models.tsm import TSM
from skd_edge.recipe.schema import Network, Recipe, Runtime
from skd_edge.run_folder import cache_root
from skd_edge.schedule.candidates import Form
from skd_export.analysis.openvino_profile import openvino_facts
from skd_export.analysis.parity import Bounds, parity, torch_logits, verdict
from skd_export.exporter import INT8, Frames, Quantising, facts, make_artefacts
from skd_export.graph.graph_template import trace_ahead
from skd_export.graph.uint8_input import fitted

_BATCH, _FEW, _NOISE_CLIPS = 50, 8, 8
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
        facts: operators as they run there, calibration.
        slower: why its precision earns nothing here, or None: it is no faster than FP32 of the same network.
        runtime: what ran it.
    """

    path: Path
    latency: Latency
    accuracy: Accuracy
    correct: NDArray[np.bool_]
    parity: dict[str, Any]
    refused: str | None
    facts: dict[str, Any]
    slower: str | None = None
    runtime: Runtime = "ort"


class Scale:
    """Exports networks of a recipe and weighs the files.

    Random weights can be weighed before there are clips: milliseconds depend neither on weights nor on the ranges that
    calibration finds, so noise calibrates their INT8 files. Trained networks need ``material``.

    Args:
        recipe: precisions, calibration, runtimes, processes and queries.
        classes: names, in the order of the logits.
        folder: where the files go.
        device: where they are measured; None: this machine.

    Attributes:
        material: the clips that calibrate (training) and score (validation), set once they are gathered.
        say: told how much memory calibrating takes, and what is wrong with the clips.
        warnings: what the report must say about the files.
        chosen: the name of the chosen candidate: until there is one, no test clip is scored.
        untrained: megabytes of files with random weights, by ``"<student> <form>"``; trained ones are as large.
        cannot: why the runtime of a form cannot run its file, by the same names.
    """

    material: Material
    chosen: str | None = None
    untrained: Mapping[str, float] = MappingProxyType({})

    def __init__(self, recipe: Recipe, classes: tuple[str, ...], folder: Path, device: Device | None = None) -> None:
        self.recipe, self.classes, self.folder = recipe, classes, folder
        self.graphs = cache_root() / "graphs"
        self.device = device or Device(recipe.bench)
        _, self.preprocess = deployed_view(recipe.clip)
        self.say: Callable[[str], None] = lambda line: None
        self.warnings: list[str] = []
        self.cannot: dict[str, str] = {}

    def export(
        self, network: Built, name: str, precisions: tuple[str, ...], judge: Built | None = None
    ) -> dict[str, Path]:
        """The files of one trained (or random) network, by precision; INT8 is compared with ``judge``, else with it.

        Raises:
            UserError: See ``make_artefacts``.
        """
        train, export = self.material.clips.train, self.recipe.export
        count = min(export.calibration_clips, len(train))
        bounds = f"{self.material.clips.val.hash}:{export.int8_agreement}:{export.int8_drop}"
        quantising = Quantising(
            partial(self._calibration, count),
            f"{train.hash}:{count}:{bounds}",
            reduce_range=True if self.device.saturates else None,
            refuse=self._refuser(judge or network),
            say=self.say,
        )
        if {*INT8} & {*precisions}:
            self._warn_of_one_class(count)
        return self._export(network, name, precisions, quantising)

    def export_random(self, network: Built, name: str, precisions: tuple[str, ...]) -> dict[str, Path]:
        """The files of a network with random weights, by precision, as fast as trained ones; no clip is read.

        Raises:
            UserError: See ``make_artefacts``.
        """
        quantising = Quantising(
            self._noise, f"noise:{_NOISE_CLIPS}", reduce_range=True if self.device.saturates else None
        )
        return self._export(network, name, precisions, quantising)

    def random_weights(self, network: Network) -> Built:
        """A network nobody trained: as fast as a trained one."""
        r, names = self.recipe, self.classes
        return build_network(network, classes=len(names), clip=r.clip, seed=r.seed, names=names).eval()

    def trace_ahead(self, networks: Sequence[Built]) -> None:
        """Trace the networks for ONNX on two cores, before they are exported one by one."""
        own = [Deployed(n).eval() for n in networks if isinstance(n, TSM)]
        trace_ahead(own, self._clip_shape, self.graphs)

    @property
    def _clip_shape(self) -> tuple[int, int, int]:
        return self.recipe.clip.frames, self.recipe.clip.size, self.recipe.clip.size

    def _export(
        self, network: Built, name: str, precisions: tuple[str, ...], quantising: Quantising
    ) -> dict[str, Path]:
        export = self.recipe.export
        return make_artefacts(
            Deployed(network).eval(),
            precisions,
            self.folder / name.replace(">", "+"),
            clip_shape=self._clip_shape,
            classes=list(self.classes),
            quantising=quantising,
            # What a factory calls may stand anywhere: such a graph is not shared between runs.
            graphs=self.graphs if isinstance(network, TSM) else None,
            frames=Frames(self.preprocess, export.frame_size) if export.contract == "frames" else None,
        )

    def _refuser(self, network: Built) -> Callable[[Path, str], str | None]:
        """Says why a file of float clips is outside the recipe's bounds on the validation clips, or None."""
        reference: list[NDArray[np.float32]] = []  # computed when the first file is judged

        def refuse(path: Path, precision: str) -> str | None:
            clips = self.material.clips.val
            if not reference:
                inputs = (normalise(batch, self.preprocess) for batch in _batches(clips))
                reference.append(torch_logits(Deployed(network).eval(), inputs))
            session = runtime_of("ort").load(path, threads=self.recipe.bench.threads)
            try:
                said = logits_of(session, _batches(clips), self.preprocess)
            finally:
                session.close()
            return verdict(parity(reference[0], said, clips.labels), precision, self._bounds)

        return refuse

    @property
    def _bounds(self) -> Bounds:
        return Bounds(agreement=self.recipe.export.int8_agreement, drop=self.recipe.export.int8_drop)

    def _warn_of_one_class(self, count: int) -> None:
        """Ranges that were seen on clips of one class fit that class."""
        weak = self.material.weak[self._chosen(count)]
        present = np.unique(weak[weak >= 0])
        if len(present) == 1 and len(self.classes) > 1:
            text = (
                f"all {count} calibration clips are of class {self.classes[present[0]]!r}: INT8 ranges fit that class "
                "alone; raise export.calibration_clips"
            )
            if text not in self.warnings:
                self.warnings.append(text)
                self.say(f"warning: {text}")

    def latency(self, targets: Sequence[Target], progress: Progress | None = None) -> dict[str, Latency]:
        """Single-stream latency of these files by name, interleaved, in fresh processes."""
        return self.device.measure(targets, progress)

    def refusal(self, path: Path, runtime: Runtime) -> str | None:
        """Why a runtime cannot run a file, tried here with one clip of noise; None where it can.

        ONNX Runtime is not asked: what it cannot run is no file at all (``make_artefacts``).
        """
        if runtime == "ort":
            return None
        try:
            session = runtime_of(runtime).load(path, threads=self.recipe.bench.threads)
            try:
                session.run(random_clip(session))
            finally:
                session.close()
        except UserError as error:
            return f"{runtime} cannot run it: {error}"
        return None

    def logits(self, path: Path, clips: ClipSet, runtime: Runtime) -> NDArray[np.float32]:
        """What a file says of clips ``(N, C)``, through the runtime that ships.

        Raises:
            RuntimeError: They are the test clips, and nothing was chosen yet.
        """
        if clips.hash == self.material.clips.test.hash and not self.chosen:
            raise RuntimeError("the test clips are scored after the choice, never before it")
        return self._kept(runtime, path, clips, lambda: self._run(path, clips, runtime))

    def _run(self, path: Path, clips: ClipSet, runtime: Runtime) -> NDArray[np.float32]:
        session = runtime_of(runtime).load(path, threads=self.recipe.bench.threads)
        try:
            return logits_of(session, self._pixels(clips), self.preprocess)
        finally:
            session.close()

    def first(self, count: int) -> Batches:
        """The first ``count`` validation clips, as the files take them."""
        whole = self.material.clips.val
        few = ClipSet(whole.ids[:count], whole.clips[:count], whole.labels[:count], whole.groups[:count],
                      whole.names[:count], whole.hash, whole.files[:count], whole.parts[:count])  # fmt: skip
        return self._pixels(few)

    def inputs(self, clips: ClipSet) -> Iterator[NDArray[np.float32]]:
        """The same clips as a network takes them: normalised batches ``(b, 3, T, H, W)``."""
        return (fitted(batch, self.preprocess) for batch in self._pixels(clips))

    def _pixels(self, clips: ClipSet) -> Batches:
        """The clips as the files take them: from the store, or decoded anew where files take frames of another size."""
        if (size := self.recipe.export.frame_size) is None:
            return _batches(clips)
        sampling, _ = deployed_view(self.recipe.clip)
        camera = Preprocess(*size, self.preprocess.fit, self.preprocess.mean, self.preprocess.std)
        where = list(zip(clips.files, clips.parts, strict=True))
        few = (where[i : i + _FEW] for i in range(0, len(clips), _FEW))
        return (np.stack([decode_clip(file, sampling, camera, part) for file, part in some]) for some in few)

    def _kept(
        self, what: str, path: Path, clips: ClipSet, make: Callable[[], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Logits that were computed before, else computed and kept in the run."""
        key = f"{what}:{sha256_file(path)}:{clips.hash}:{len(clips)}:{self.recipe.export.frame_size}"
        kept = self.folder / "logits" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
        try:
            known: NDArray[np.float32] = np.load(kept)
        except (OSError, ValueError, EOFError):
            known = make()
            memory = io.BytesIO()
            np.save(memory, known)
            write_atomic(kept, memory.getvalue())
        return known

    def score(self, path: Path, clips: ClipSet, runtime: Runtime) -> tuple[Accuracy, NDArray[np.bool_]]:
        """Accuracy of a file on clips through a runtime, and which of them it got right ``(N,)``."""
        return self._scored(self.logits(path, clips, runtime), clips)

    def weigh(self, network: Built, files: Mapping[Form, Path], latency: Mapping[Form, Latency]) -> dict[Form, Weighed]:
        """Score one trained network in each of its forms: the file at that precision, through that runtime."""
        clips = self.material.clips.val
        first = next(iter(files.values()))  # it stands for the network's weights
        whole = Deployed(network).eval()
        reference = self._kept("torch", first, clips, lambda: torch_logits(whole, self.inputs(clips)))
        weighed = {}
        for form, path in files.items():
            logits = self.logits(path, clips, form.runtime)
            compared = parity(reference, logits, clips.labels)
            accuracy, correct = self._scored(logits, clips)
            weighed[form] = Weighed(
                path=path,
                latency=latency[form],
                accuracy=accuracy,
                correct=correct,
                parity=compared,
                refused=verdict(compared, form.precision, self._bounds),
                facts=facts(path) | (openvino_facts(path) if form.runtime == "openvino" else {}),
                slower=_slower(form, latency),
                runtime=form.runtime,
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
        chosen = self._chosen(count)
        for i in range(0, count, 16):
            yield normalise(self.material.clips.train.clips[chosen[i : i + 16]], self.preprocess)

    def _chosen(self, count: int) -> NDArray[np.int64]:
        """Rows of the training clips that calibrate."""
        rows = np.random.default_rng(self.recipe.seed).permutation(len(self.material.clips.train))
        return np.sort(rows[:count])


def _slower(form: Form, latency: Mapping[Form, Latency]) -> str | None:
    """Why a precision earns nothing on the device: it is not shown to be faster than FP32 on the same runtime."""
    beside = (one for other, one in latency.items() if (other.precision, other.runtime) == ("fp32", form.runtime))
    mine, fp32 = latency[form], next(beside, None)
    if form.precision == "fp32" or fp32 is None or not mine.samples_ms:
        return None
    ratio = ratio_of_medians(mine.samples_ms, fp32.samples_ms)
    if ratio is None or ratio.high < 1:
        return None
    said = f"{ratio.value:.2f} times FP32's milliseconds [{ratio.low:.2f}, {ratio.high:.2f}]"
    return f"{form.precision.upper()} is rejected: {said}, not shown to be faster here"


def _batches(clips: ClipSet) -> Batches:
    return (np.asarray(clips.clips[i : i + _BATCH]) for i in range(0, len(clips), _BATCH))
