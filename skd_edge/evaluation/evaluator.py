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

from skd_bench.benchmark.latency import LatencyResult, LatencyTarget
from skd_bench.errors import UserError
from skd_bench.files import sha256_file, write_atomic
from skd_bench.metrics.accuracy import AccuracyMetrics, compute_accuracy, compute_logits
from skd_bench.runtimes import find_runtime as runtime_of
from skd_bench.runtimes.base import make_random_clip
from skd_bench.stats import ratio_of_medians
from skd_bench.video.clip import decode_clip, normalise
from skd_bench.video.types import Preprocessing
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.data.store.clip_store import ClipSplit
from skd_edge.evaluation.devices import Device
from skd_edge.labels.dataset import TrainingData
from skd_edge.models.builder import AnyNetwork, build_network
from skd_edge.models.substages import LogitsOnly
from skd_edge.models.tsm import TSM
from skd_edge.recipe.schema import NetworkSpec, Recipe
from skd_edge.recipe.sections import Runtime
from skd_edge.run_folder import open_cache
from skd_edge.schedule.candidates import Deployment
from skd_export.analysis.openvino_profile import profile_with_openvino
from skd_export.analysis.parity import ParityBounds, compute_parity, compute_torch_logits, find_violated_bound
from skd_export.exporter import INT8, QuantizationConfig, make_artefacts, read_metadata
from skd_export.graph.graph_template import trace_ahead
from skd_export.graph.uint8_input import Uint8Input, preprocess_frames

_BATCH, _DECODE_BATCH, _NOISE_CLIPS = 50, 8, 8
Progress = Callable[[int, int], None]
Batches = Iterator[NDArray[np.uint8]]


@dataclass(frozen=True)
class CandidateResult:
    """One file, measured and scored.

    Attributes:
        path: the file.
        latency: single-stream, on the device.
        accuracy: on the trusted validation clips.
        correct: ``(N,)`` which of them it got right.
        parity: against the trained network, on the same clips.
        rejection_reason: why the file is outside its bounds, or None.
        metadata: operators as they run there, calibration.
        not_faster_reason: why its precision earns nothing here, or None: it is no faster than FP32 of the same network.
        runtime: what ran it.
    """

    path: Path
    latency: LatencyResult
    accuracy: AccuracyMetrics
    correct: NDArray[np.bool_]
    parity: dict[str, Any]
    rejection_reason: str | None
    metadata: dict[str, Any]
    not_faster_reason: str | None = None
    runtime: Runtime = "ort"


class CandidateEvaluator:
    """Exports networks of a recipe and weighs the files.

    Random weights can be weighed before there are clips: milliseconds depend neither on weights nor on the ranges that
    calibration finds, so noise calibrates their INT8 files. Trained networks need ``training_data``.

    Args:
        recipe: precisions, calibration, runtimes, processes and queries.
        classes: names, in the order of the logits.
        folder: where the files go.
        device: where they are measured; None: this machine.

    Attributes:
        training_data: the clips that calibrate (training) and score (validation), set once they are gathered.
        log: told how much memory calibrating takes, and what is wrong with the clips.
        warnings: what the report must say about the files.
        chosen_candidate: the name of the chosen candidate: until there is one, no test clip is scored.
        untrained_megabytes: megabytes of files with random weights, by ``"<student> <form>"``; trained ones are as large.
        unrunnable: why the runtime of a form cannot run its file, by the same names.
    """

    training_data: TrainingData
    chosen_candidate: str | None = None
    untrained_megabytes: Mapping[str, float] = MappingProxyType({})

    def __init__(self, recipe: Recipe, classes: tuple[str, ...], folder: Path, device: Device | None = None) -> None:
        self.recipe, self.classes, self.folder = recipe, classes, folder
        self.graph_cache = open_cache() / "graphs"
        self.device = device or Device(recipe.bench)
        _, self.preprocess = inference_preprocessing(recipe.clip)
        self.log: Callable[[str], None] = lambda line: None
        self.warnings: list[str] = []
        self.unrunnable: dict[str, str] = {}

    def export_trained(
        self, network: AnyNetwork, name: str, precisions: tuple[str, ...], reference_network: AnyNetwork | None = None
    ) -> dict[str, Path]:
        """The files of one trained (or random) network, by precision; INT8 is compared with ``reference_network``, else with it.

        Raises:
            UserError: See ``make_artefacts``.
        """
        train, export = self.training_data.clips.train, self.recipe.export
        count = min(export.calibration_clips, len(train))
        bounds = f"{self.training_data.clips.val.hash}:{export.int8_agreement}:{export.int8_drop}"
        quantising = QuantizationConfig(
            partial(self._iter_calibration_batches, count),
            f"{train.hash}:{count}:{bounds}",
            reduce_range=True if self.device.int8_saturates else None,
            find_violation=self._make_violation_finder(reference_network or network),
            log=self.log,
        )
        if {*INT8} & {*precisions}:
            self._warn_single_class_calibration(count)
        return self._export_precisions(network, name, precisions, quantising)

    def export_untrained(self, network: AnyNetwork, name: str, precisions: tuple[str, ...]) -> dict[str, Path]:
        """The files of a network with random weights, by precision, as fast as trained ones; no clip is read.

        Raises:
            UserError: See ``make_artefacts``.
        """
        quantising = QuantizationConfig(
            self._iter_noise_batches, f"noise:{_NOISE_CLIPS}", reduce_range=True if self.device.int8_saturates else None
        )
        return self._export_precisions(network, name, precisions, quantising)

    def build_untrained_network(self, network: NetworkSpec) -> AnyNetwork:
        """A network nobody trained: as fast as a trained one."""
        r, names = self.recipe, self.classes
        return build_network(network, classes=len(names), clip=r.clip, seed=r.seed, names=names).eval()

    def trace_ahead(self, networks: Sequence[AnyNetwork]) -> None:
        """Trace the networks for ONNX on two cores, before they are exported one by one."""
        deployed = [LogitsOnly(n).eval() for n in networks if isinstance(n, TSM)]
        trace_ahead(deployed, self._clip_shape, self.graph_cache)

    @property
    def _clip_shape(self) -> tuple[int, int, int]:
        return self.recipe.clip.frames, self.recipe.clip.size, self.recipe.clip.size

    def _export_precisions(
        self, network: AnyNetwork, name: str, precisions: tuple[str, ...], quantising: QuantizationConfig
    ) -> dict[str, Path]:
        export = self.recipe.export
        return make_artefacts(
            LogitsOnly(network).eval(),
            precisions,
            self.folder / name.replace(">", "+"),
            clip_shape=self._clip_shape,
            classes=list(self.classes),
            quantization=quantising,
            # What a factory calls may stand anywhere: such a graph is not shared between runs.
            graph_cache=self.graph_cache if isinstance(network, TSM) else None,
            uint8_input=Uint8Input(self.preprocess, export.frame_size) if export.contract == "frames" else None,
        )

    def _make_violation_finder(self, network: AnyNetwork) -> Callable[[Path, str], str | None]:
        """Says why a file of float clips is outside the recipe's bounds on the validation clips, or None."""
        reference: list[NDArray[np.float32]] = []  # computed when the first file is judged

        def find_violation(path: Path, precision: str) -> str | None:
            clips = self.training_data.clips.val
            if not reference:
                inputs = (normalise(batch, self.preprocess) for batch in _iter_batches(clips))
                reference.append(compute_torch_logits(LogitsOnly(network).eval(), inputs))
            session = runtime_of("ort").load(path, threads=self.recipe.bench.threads)
            try:
                file_logits = compute_logits(session, _iter_batches(clips), self.preprocess)
            finally:
                session.close()
            return find_violated_bound(
                compute_parity(reference[0], file_logits, clips.labels), precision, self._parity_bounds
            )

        return find_violation

    @property
    def _parity_bounds(self) -> ParityBounds:
        return ParityBounds(int8_agreement=self.recipe.export.int8_agreement, int8_drop=self.recipe.export.int8_drop)

    def _warn_single_class_calibration(self, count: int) -> None:
        """Ranges that were seen on clips of one class fit that class."""
        weak = self.training_data.weak_labels[self._draw_calibration_rows(count)]
        present = np.unique(weak[weak >= 0])
        if len(present) == 1 and len(self.classes) > 1:
            text = (
                f"all {count} calibration clips are of class {self.classes[present[0]]!r}: INT8 ranges fit that class "
                "alone; raise export.calibration_clips"
            )
            if text not in self.warnings:
                self.warnings.append(text)
                self.log(f"warning: {text}")

    def measure_latency(
        self, targets: Sequence[LatencyTarget], progress: Progress | None = None
    ) -> dict[str, LatencyResult]:
        """Single-stream latency of these files by name, interleaved, in fresh processes."""
        return self.device.measure_latency(targets, progress)

    def why_unrunnable(self, path: Path, runtime: Runtime) -> str | None:
        """Why a runtime cannot run a file, tried here with one clip of noise; None where it can.

        ONNX Runtime is not asked: what it cannot run is no file at all (``make_artefacts``).
        """
        if runtime == "ort":
            return None
        try:
            session = runtime_of(runtime).load(path, threads=self.recipe.bench.threads)
            try:
                session.run(make_random_clip(session))
            finally:
                session.close()
        except UserError as error:
            return f"{runtime} cannot run it: {error}"
        return None

    def compute_logits(self, path: Path, clips: ClipSplit, runtime: Runtime) -> NDArray[np.float32]:
        """What a file says of clips ``(N, C)``, through the runtime that ships.

        Raises:
            RuntimeError: They are the test clips, and nothing was chosen yet.
        """
        if clips.hash == self.training_data.clips.test.hash and not self.chosen_candidate:
            raise RuntimeError("the test clips are scored after the choice, never before it")
        return self._load_or_compute_logits(runtime, path, clips, lambda: self._run_file(path, clips, runtime))

    def _run_file(self, path: Path, clips: ClipSplit, runtime: Runtime) -> NDArray[np.float32]:
        session = runtime_of(runtime).load(path, threads=self.recipe.bench.threads)
        try:
            return compute_logits(session, self._iter_pixels(clips), self.preprocess)
        finally:
            session.close()

    def iter_first_clips(self, count: int) -> Batches:
        """The first ``count`` validation clips, as the files take them."""
        whole = self.training_data.clips.val
        few = ClipSplit(
            whole.ids[:count],
            whole.clips[:count],
            whole.labels[:count],
            whole.groups[:count],
            whole.names[:count],
            whole.hash,
            whole.files[:count],
            whole.spans[:count],
        )
        return self._iter_pixels(few)

    def iter_network_inputs(self, clips: ClipSplit) -> Iterator[NDArray[np.float32]]:
        """The same clips as a network takes them: normalised batches ``(b, 3, T, H, W)``."""
        return (preprocess_frames(batch, self.preprocess) for batch in self._iter_pixels(clips))

    def _iter_pixels(self, clips: ClipSplit) -> Batches:
        """The clips as the files take them: from the store, or decoded anew where files take frames of another size."""
        if (size := self.recipe.export.frame_size) is None:
            return _iter_batches(clips)
        sampling, _ = inference_preprocessing(self.recipe.clip)
        camera = Preprocessing(*size, self.preprocess.fit, self.preprocess.mean, self.preprocess.std)
        where = list(zip(clips.files, clips.spans, strict=True))
        few = (where[i : i + _DECODE_BATCH] for i in range(0, len(clips), _DECODE_BATCH))
        return (np.stack([decode_clip(file, sampling, camera, part) for file, part in some]) for some in few)

    def _load_or_compute_logits(
        self, source: str, path: Path, clips: ClipSplit, compute: Callable[[], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Logits that were computed before, else computed and kept in the run."""
        key = f"{source}:{sha256_file(path)}:{clips.hash}:{len(clips)}:{self.recipe.export.frame_size}"
        cache_file = self.folder / "logits" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
        try:
            logits: NDArray[np.float32] = np.load(cache_file)
        except (OSError, ValueError, EOFError):
            logits = compute()
            buffer = io.BytesIO()
            np.save(buffer, logits)
            write_atomic(cache_file, buffer.getvalue())
        return logits

    def score_file(self, path: Path, clips: ClipSplit, runtime: Runtime) -> tuple[AccuracyMetrics, NDArray[np.bool_]]:
        """Accuracy of a file on clips through a runtime, and which of them it got right ``(N,)``."""
        return self._score_logits(self.compute_logits(path, clips, runtime), clips)

    def evaluate_network(
        self, network: AnyNetwork, files: Mapping[Deployment, Path], latency: Mapping[Deployment, LatencyResult]
    ) -> dict[Deployment, CandidateResult]:
        """Score one trained network in each of its forms: the file at that precision, through that runtime."""
        clips = self.training_data.clips.val
        first_path = next(iter(files.values()))  # it stands for the network's weights
        deployed = LogitsOnly(network).eval()
        reference = self._load_or_compute_logits(
            "torch", first_path, clips, lambda: compute_torch_logits(deployed, self.iter_network_inputs(clips))
        )
        results = {}
        for deployment, path in files.items():
            logits = self.compute_logits(path, clips, deployment.runtime)
            compared = compute_parity(reference, logits, clips.labels)
            accuracy, correct = self._score_logits(logits, clips)
            results[deployment] = CandidateResult(
                path=path,
                latency=latency[deployment],
                accuracy=accuracy,
                correct=correct,
                parity=compared,
                rejection_reason=find_violated_bound(compared, deployment.precision, self._parity_bounds),
                metadata=read_metadata(path)
                | (profile_with_openvino(path) if deployment.runtime == "openvino" else {}),
                not_faster_reason=_why_not_faster(deployment, latency),
                runtime=deployment.runtime,
            )
        return results

    def _score_logits(self, logits: NDArray[np.float32], clips: ClipSplit) -> tuple[AccuracyMetrics, NDArray[np.bool_]]:
        return compute_accuracy(logits, clips.labels, list(self.classes), clips.groups.tolist()), logits.argmax(
            1
        ) == clips.labels

    def _iter_noise_batches(self) -> Iterator[NDArray[np.float32]]:
        frames, height, width = self._clip_shape
        shape = (_NOISE_CLIPS, frames, height, width, 3)
        pixels = np.random.default_rng(self.recipe.seed).integers(0, 256, shape, np.uint8)
        yield normalise(pixels, self.preprocess)

    def _iter_calibration_batches(self, count: int) -> Iterator[NDArray[np.float32]]:
        rows = self._draw_calibration_rows(count)
        for i in range(0, count, 16):
            yield normalise(self.training_data.clips.train.clips[rows[i : i + 16]], self.preprocess)

    def _draw_calibration_rows(self, count: int) -> NDArray[np.int64]:
        """Rows of the training clips that calibrate."""
        rows = np.random.default_rng(self.recipe.seed).permutation(len(self.training_data.clips.train))
        return np.sort(rows[:count])


def _why_not_faster(deployment: Deployment, latency: Mapping[Deployment, LatencyResult]) -> str | None:
    """Why a precision earns nothing on the device: it is not shown to be faster than FP32 on the same runtime."""
    fp32_candidates = (
        one for other, one in latency.items() if (other.precision, other.runtime) == ("fp32", deployment.runtime)
    )
    mine, fp32 = latency[deployment], next(fp32_candidates, None)
    if deployment.precision == "fp32" or fp32 is None or not mine.samples_ms:
        return None
    ratio = ratio_of_medians(mine.samples_ms, fp32.samples_ms)
    if ratio is None or ratio.high < 1:
        return None
    ratio_text = f"{ratio.value:.2f} times FP32's milliseconds [{ratio.low:.2f}, {ratio.high:.2f}]"
    return f"{deployment.precision.upper()} is rejected: {ratio_text}, not shown to be faster here"


def _iter_batches(clips: ClipSplit) -> Batches:
    return (np.asarray(clips.clips[i : i + _BATCH]) for i in range(0, len(clips), _BATCH))
