"""Scores files on clips: logits, accuracy, and the difference from the network that they were made from."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skd_bench.benchmark.engines.device_job import ScoringClips
from skd_bench.benchmark.latency import LatencyResult
from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.integrity.checked_files import DamagedFileError, read_checked, report_damage, write_checked
from skd_bench.metrics.accuracy import AccuracyMetrics, compute_accuracy, compute_logits
from skd_bench.runtimes import find_runtime, uses_gpu
from skd_bench.runtimes.base import make_random_clip
from skd_bench.stats import ratio_of_medians
from skd_bench.video.clip import decode_clip, normalise
from skd_bench.video.types import Preprocessing
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.data.store.clip_store import ClipSplit
from skd_edge.evaluation.local_device import Device, DeviceFile
from skd_edge.models.builder import AnyNetwork
from skd_edge.models.substages import LogitsOnly
from skd_edge.recipe.schema import Recipe
from skd_edge.recipe.sections import Runtime
from skd_edge.schedule.candidates import Deployment
from skd_export.analysis.openvino_profile import profile_with_openvino
from skd_export.analysis.operator_profile import OperatorProfile
from skd_export.analysis.parity import ParityBounds, ParityMetrics, compute_torch_logits
from skd_export.exporter import read_metadata
from skd_export.graph.uint8_input import preprocess_frames
from skd_export.quantization.quantize import FileMetadata
from skd_export.verified_export import FileVerifier

_BATCH, _DECODE_BATCH = 50, 8
_MOST_LAYERS = 10_000
Batches = Iterator[NDArray[np.uint8]]
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class CandidateResult:
    """The latency and accuracy of one file.

    Attributes:
        path: the file.
        latency: single-stream latency on the device.
        accuracy: accuracy on the N validation clips.
        predictions: ``(N,)`` the class that the file predicts for each clip.
        parity: comparison with the trained network on the same clips.
        rejection_reason: the bound that the file violates, as a sentence; None if it is within all bounds.
        metadata: operators and calibration, see `read_metadata`; with OpenVINO, the operators that it runs.
        not_faster_reason: a sentence if the file is not shown to be faster than FP32 of the same network; else None.
        runtime: the runtime that ran the file.
        facts: what the session on a GPU reported (versions, GPU, engine and its layers); empty on a CPU.
    """

    path: Path
    latency: LatencyResult
    accuracy: AccuracyMetrics
    predictions: NDArray[np.int64]
    parity: ParityMetrics
    rejection_reason: str | None
    metadata: FileMetadata
    not_faster_reason: str | None = None
    runtime: Runtime = "ort"
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def builds_ms(self) -> list[float]:
        """Median milliseconds of each build of the engine; empty if it was built once."""
        builds = self.facts.get("builds")
        return [float(row["p50_ms"]) for row in builds] if isinstance(builds, list) else []


class FileScorer:
    """Runs files on clips. Logits are stored in the run under a hash of file and clips, and are computed only once.

    Args:
        recipe: its clip, export and bench settings are used.
        classes: class names, in the order of the logits.
        folder: the run's folder of exported files; logits are stored in ``logits`` below it.
        device: computes the logits of files that run on its GPU; None: no such file is scored.
    """

    def __init__(self, recipe: Recipe, classes: tuple[str, ...], folder: Path, device: Device | None = None) -> None:
        self.recipe, self.classes, self.folder, self._device = recipe, classes, folder, device
        _, self.preprocess = inference_preprocessing(recipe.clip)
        self._sources: dict[DeviceFile, str] = {}
        self._clips_folder: tempfile.TemporaryDirectory[str] | None = None

    def why_unrunnable(self, path: Path, runtime: Runtime) -> str | None:
        """Why a runtime cannot run a file, found by running one random clip; None if it can.

        ONNX Runtime is not tested, because `make_artefacts` only writes files that it can run. A GPU's runtime is not
        tested either: `Device.measure` does that where the GPU is.
        """
        if runtime == "ort" or uses_gpu(runtime):
            return None
        try:
            session = find_runtime(runtime).load(path, threads=self.recipe.bench.threads)
            try:
                session.run(make_random_clip(session))
            finally:
                session.close()
        except UserError as error:
            return f"{runtime} cannot run it: {error}"
        return None

    def compute_logits(self, path: Path, clips: ClipSplit, runtime: str) -> Logits:
        """Logits of a file on clips, ``(N, C)``.

        Raises:
            UserError: The runtime cannot run the file.
        """
        if self._device is not None and uses_gpu(runtime):
            return self._compute_on_device(self._device, path, clips, runtime)
        return self._load_or_compute_logits(
            runtime, path, clips, lambda: self._run_file(path, self._iter_pixels(clips), runtime)
        )

    def _compute_on_device(self, device: Device, path: Path, clips: ClipSplit, runtime: str) -> Logits:
        """Logits of an engine: stored under the hash of the engine, because each build may answer differently."""
        logits = self._load_or_compute_logits(
            self._find_source(device, path, runtime),
            path,
            clips,
            lambda: device.compute_logits(path, runtime, self.make_scoring_clips(clips)),
        )
        if logits.shape != (len(clips), len(self.classes)) or not np.isfinite(logits).all():
            raise UserError(
                f"{device.name} answered with logits {logits.shape} for {len(clips)} clips and {len(self.classes)} "
                f"classes, or with NaN, for {path.name} on {runtime}; measure again"
            )
        return logits

    def _find_source(self, device: Device, path: Path, runtime: str) -> str:
        """What answers for a file on a device: its engine. One elsewhere that was never measured stays "the device's".

        The first answer counts: such an engine is known after it was scored here, but not to the next process.
        """
        if (path, runtime) not in self._sources:
            facts = device.prepare_file(path, runtime)
            engine = facts.get("engine_sha256", device.engine_key)
            self._sources[path, runtime] = f"{runtime}:{engine}"
        return self._sources[path, runtime]

    def make_scoring_clips(self, clips: ClipSplit) -> ScoringClips:
        """The clips in one file, as a device takes them."""
        key = f"{clips.hash}:{len(clips)}:{self.recipe.export.frame_size}"
        return ScoringClips(key, self._write_clips(clips), self.preprocess)

    def score_ahead(self, files: Sequence[DeviceFile], clips: ClipSplit) -> dict[DeviceFile, str]:
        """Compute and store the logits of files on the device's GPU, together, so that clips travel to it once.

        Args:
            files: also files on a CPU, and files whose logits are stored; they are left out.
            clips: the clips.

        Returns:
            Why files cannot be scored.

        Raises:
            UserError: The device cannot be reached, or waits for a person.
        """
        if (device := self._device) is None:
            return {}
        missing, refused = [], {}
        for path, runtime in files:
            try:
                if uses_gpu(runtime) and not self._is_stored(device, path, clips, runtime):
                    missing.append((path, runtime))
            except UserError as error:
                refused[path, runtime] = str(error)
        if not missing:
            return refused
        refused |= device.score_files(missing, self.make_scoring_clips(clips))
        for path, runtime in missing:
            if (path, runtime) not in refused:
                try:
                    self.compute_logits(path, clips, runtime)
                except UserError as error:
                    refused[path, runtime] = str(error)
        return refused

    def _is_stored(self, device: Device, path: Path, clips: ClipSplit, runtime: str) -> bool:
        return self._logits_file(self._find_source(device, path, runtime), path, clips).is_file()

    def _write_clips(self, clips: ClipSplit) -> Path:
        """The clips as the files take them, in one file, until `discard_clips`; a file that exists is whole.

        Raises:
            ClipError: A clip cannot be decoded.
        """
        if self._clips_folder is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clips_folder = tempfile.TemporaryDirectory(prefix="clips-", dir=self.folder)
        file = Path(self._clips_folder.name) / f"{clips.hash[:16]}-{len(clips)}.npy"
        if not file.exists():
            unfinished = file.with_suffix(".part")  # a clip that cannot be decoded leaves rows of zeros there
            array: NDArray[np.uint8] | None = None
            done = 0
            for batch in self._iter_pixels(clips):
                if array is None:
                    shape = (len(clips), *batch.shape[1:])
                    array = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint8, shape=shape)
                array[done : done + len(batch)] = batch
                done += len(batch)
            unfinished.rename(file)
        return file

    def discard_clips(self) -> None:
        """Remove the clips that were written for the device."""
        if self._clips_folder is not None:
            self._clips_folder.cleanup()
            self._clips_folder = None

    def score_file(self, path: Path, clips: ClipSplit, runtime: Runtime) -> tuple[AccuracyMetrics, NDArray[np.int64]]:
        """Accuracy of a file on clips, and the class that it predicts for each clip, ``(N,)``.

        Raises:
            UserError: The runtime cannot run the file.
        """
        return self._score_logits(self.compute_logits(path, clips, runtime), clips)

    def evaluate_network(
        self,
        network: AnyNetwork,
        files: Mapping[Deployment, Path],
        latency: Mapping[Deployment, LatencyResult],
        clips: ClipSplit,
    ) -> dict[Deployment, CandidateResult]:
        """Score one trained network in each of its deployments.

        Args:
            network: in eval mode.
            files: the file of each deployment.
            latency: the measured latency of each deployment.
            clips: the validation clips.

        Raises:
            UserError: A runtime cannot run a file, or its logits cannot be compared with the network's.
        """
        first_path = next(iter(files.values()))  # identifies the weights in the key of the network's stored logits
        deployed = LogitsOnly(network).eval()
        verifier = FileVerifier(
            lambda: self._load_or_compute_logits(
                "torch", first_path, clips, lambda: compute_torch_logits(deployed, self.iter_network_inputs(clips))
            ),
            lambda path, runtime: self.compute_logits(path, clips, runtime),
            clips.labels,
            self._parity_bounds,
        )
        results = {}
        for deployment, path in files.items():
            verified = verifier.verify(path, deployment.precision, deployment.runtime)
            accuracy, predictions = self._score_logits(verified.logits, clips)
            metadata = read_metadata(path)
            facts = self._device.find_facts(path, deployment.runtime) if self._device else {}
            if facts:
                metadata |= _describe_layers(facts)
            if deployment.runtime == "openvino":
                profile = profile_with_openvino(path)
                metadata |= {"operators": profile["operators"], "fates": profile["fates"]}
            results[deployment] = CandidateResult(
                path=path,
                latency=latency[deployment],
                accuracy=accuracy,
                predictions=predictions,
                parity=verified.parity,
                rejection_reason=verified.rejection_reason,
                metadata=metadata,
                not_faster_reason=_why_not_faster(deployment, latency),
                runtime=deployment.runtime,
                facts=facts,
            )
        return results

    def make_float_verifier(self, network: AnyNetwork, clips: ClipSplit) -> FileVerifier:
        """A verifier for files that take float clips and are still being quantised: their logits are not stored."""
        deployed = LogitsOnly(network).eval()
        return FileVerifier(
            lambda: compute_torch_logits(deployed, (normalise(b, self.preprocess) for b in iter_clip_batches(clips))),
            lambda path, runtime: self._run_file(path, iter_clip_batches(clips), runtime),
            clips.labels,
            self._parity_bounds,
        )

    def iter_first_clips(self, clips: ClipSplit, count: int) -> Batches:
        """The first ``count`` clips in batches of uint8 frames ``(b, T, H, W, 3)``, of the size that the files take."""
        first = ClipSplit(
            clips.ids[:count],
            clips.clips[:count],
            clips.labels[:count],
            clips.groups[:count],
            clips.names[:count],
            clips.hash,
            clips.files[:count],
            clips.spans[:count],
        )
        return self._iter_pixels(first)

    def iter_network_inputs(self, clips: ClipSplit) -> Iterator[NDArray[np.float32]]:
        """The clips as a network takes them: normalised batches, float32 ``(b, 3, T, H, W)``."""
        return (preprocess_frames(batch, self.preprocess) for batch in self._iter_pixels(clips))

    @property
    def _parity_bounds(self) -> ParityBounds:
        return ParityBounds(int8_agreement=self.recipe.export.int8_agreement, int8_drop=self.recipe.export.int8_drop)

    def _run_file(self, path: Path, batches: Batches, runtime: str) -> Logits:
        session = find_runtime(runtime).load(path, threads=self.recipe.bench.threads)
        try:
            return compute_logits(session, batches, self.preprocess)
        finally:
            session.close()

    def _iter_pixels(self, clips: ClipSplit) -> Batches:
        """The clips as the files take them: from the store, or decoded again if files take frames of another size."""
        if (size := self.recipe.export.frame_size) is None:
            return iter_clip_batches(clips)
        sampling, _ = inference_preprocessing(self.recipe.clip)
        camera = Preprocessing(*size, self.preprocess.fit, self.preprocess.mean, self.preprocess.std)
        sources = list(zip(clips.files, clips.spans, strict=True))
        batches = (sources[i : i + _DECODE_BATCH] for i in range(0, len(clips), _DECODE_BATCH))
        return (np.stack([decode_clip(file, sampling, camera, span) for file, span in batch]) for batch in batches)

    def _load_or_compute_logits(
        self, source: str, path: Path, clips: ClipSplit, compute: Callable[[], Logits]
    ) -> Logits:
        cache_file = self._logits_file(source, path, clips)
        try:
            stored: Logits = np.load(io.BytesIO(read_checked(cache_file)), allow_pickle=False)
            return stored
        except FileNotFoundError:
            pass
        except DamagedFileError as error:
            report_damage(error, "the logits are computed again")
        logits, buffer = compute(), io.BytesIO()
        np.save(buffer, logits)
        write_checked(cache_file, buffer.getvalue())
        return logits

    def _logits_file(self, source: str, path: Path, clips: ClipSplit) -> Path:
        key = f"{source}:{sha256_file(path)}:{clips.hash}:{len(clips)}:{self.recipe.export.frame_size}"
        return self.folder / "logits" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.logits"

    def _score_logits(self, logits: Logits, clips: ClipSplit) -> tuple[AccuracyMetrics, NDArray[np.int64]]:
        accuracy = compute_accuracy(logits, clips.labels, list(self.classes), clips.groups.tolist())
        return accuracy, logits.argmax(1)


def iter_clip_batches(clips: ClipSplit) -> Batches:
    """The clips of the store in batches, uint8 ``(b, T, H, W, 3)``."""
    return (np.asarray(clips.clips[i : i + _BATCH]) for i in range(0, len(clips), _BATCH))


def _describe_layers(facts: Mapping[str, object]) -> FileMetadata:
    """The layers of an engine, as the operators that a file executes; their times are unknown."""
    layers = facts.get("layers")
    operators: Counter[str] = Counter()
    fates: list[OperatorProfile] = []
    for row in layers if isinstance(layers, list) else []:  # they may come from another machine
        op, ran, nodes = str(row["op"]), str(row["ran"]), min(int(row["nodes"]), _MOST_LAYERS)
        operators[op] += nodes
        fates += [{"node": "", "op": op, "ran": ran, "microseconds": 0.0}] * nodes
    return {"operators": dict(operators.most_common()), "fates": fates}


def _why_not_faster(deployment: Deployment, latency: Mapping[Deployment, LatencyResult]) -> str | None:
    """A sentence if a deployment is not shown to be faster than FP32 on the same runtime; else None.

    The ratio of medians is compared with a confidence interval over processes. There is no sentence if the interval
    cannot be computed (one process), or if there is no FP32 file to compare with.
    """
    same_runtime = (
        one for other, one in latency.items() if (other.precision, other.runtime) == ("fp32", deployment.runtime)
    )
    own, fp32 = latency[deployment], next(same_runtime, None)
    if deployment.precision == "fp32" or fp32 is None or not own.samples_ms:
        return None
    ratio = ratio_of_medians(own.samples_ms, fp32.samples_ms)
    if ratio is None or ratio.high < 1:
        return None
    ratio_text = f"{ratio.value:.2f} times FP32's milliseconds [{ratio.low:.2f}, {ratio.high:.2f}]"
    return f"{deployment.precision.upper()} is rejected: {ratio_text}, not shown to be faster here"
