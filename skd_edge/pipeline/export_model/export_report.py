"""Export the files of a network, compare them with it clip by clip, and select those that are within their bounds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from skd_bench.errors import UserError
from skd_bench.video.clip import normalise
from skd_bench.video.types import Preprocessing
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.pipeline.export_model.sources import DecodedVideos

if TYPE_CHECKING:
    from torch import nn

    from skd_edge.pipeline.export_model.request import ExportRequest
    from skd_export.analysis.parity import ParityMetrics
    from skd_export.bundle.writer import MeasuredValues, ModelFile, ModelOptions
    from skd_export.verified_export import FileVerifier

_BATCH_SIZE, _MIN_COMPARED_CLIPS = 32, 200
_MIN_LOGIT_VARIATION = 1e-3  # relative to the largest logit; below it every file looks equal to the network
Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
RuntimeName = Literal["ort", "openvino", "litert"]
_RUNTIMES: dict[str, RuntimeName] = {"bf16": "openvino"}  # what compares a precision, where it is not ONNX Runtime


@dataclass(frozen=True)
class ExportedFile:
    """One exported file and its comparison with the network.

    Attributes:
        precision: e.g. ``fp32`` or ``int8``.
        bytes: size of the file.
        parity: how far its answers differ from the network's; None where there were no clips to compare on.
        rejection_reason: why the file is out of its bounds and not bundled; None where it is within them.
        runtime: the runtime that the file was compared on.
    """

    precision: str
    bytes: int
    parity: ParityMetrics | None
    rejection_reason: str | None
    runtime: RuntimeName = "ort"


class ModelExport:
    """Exports one network, and compares its files with it on real clips.

    Args:
        request: what to export.
        network: the network, in eval mode.
        classes: class names in the order of the logits.
        labels: ``(N,)`` class of each clip; None where the names of the clips' folders are not classes.
        videos: the clips; None: nothing is compared.
        folder: where files are written.
    """

    def __init__(
        self,
        request: ExportRequest,
        network: nn.Module,
        classes: list[str],
        labels: NDArray[np.int64] | None,
        videos: DecodedVideos | None,
        folder: Path,
    ) -> None:
        self.request, self.network, self.classes, self.folder = request, network, classes, folder
        self.preprocess: Preprocessing = inference_preprocessing(request.clip)[1]
        clips = videos.clips if videos else np.zeros((0, 1, 1, 1, 3), np.uint8)
        # No clip is used for both: INT8 looks better on the clips that set its ranges.
        calibration_count = min(request.calibration, len(clips) // 2) if request.needs_calibration else 0
        self.calibration_clips, self.comparison_clips = clips[:calibration_count], clips[calibration_count:]
        self.labels = labels[calibration_count:] if labels is not None else None
        self.notes = _build_notes(videos, labels, calibration_count, len(self.comparison_clips))

    def export_and_compare(self, on_stage: Callable[[str], None]) -> tuple[list[ModelFile], list[ExportedFile]]:
        """Export and compare every requested file.

        Args:
            on_stage: called with a short text when a step begins.

        Returns:
            The files for the bundle (those within their bounds), and all files with their comparison.

        Raises:
            UserError: The logits of the FP32 file differ from the network's, or a file cannot be exported.
        """
        on_stage(f"writing {', '.join(self.request.precisions)}")
        verifier = self._make_verifier()
        models, files = [], []
        for runtime_name, precision, path in self._export_files(verifier, on_stage):
            on_stage(f"comparing {path.name} on {len(self.comparison_clips)} clips")
            file, measured = self._compare_file(verifier, runtime_name, precision, path)
            files.append(file)
            if file.rejection_reason is None:
                models.append(self._make_model_file(file, path, measured))
            elif precision == "fp32" and runtime_name == "ort":
                raise UserError(
                    f"{file.rejection_reason}: nothing is exported; please report this with the network's operators"
                )
        return models, files

    def _make_verifier(self) -> FileVerifier:
        from skd_export.analysis.parity import ParityBounds, compute_torch_logits
        from skd_export.verified_export import FileVerifier

        return FileVerifier(
            lambda: compute_torch_logits(self.network, self._iter_normalised_batches(self.comparison_clips)),
            self._compute_file_logits,
            self.labels,
            ParityBounds(int8_agreement=self.request.int8_agreement, int8_drop=self.request.int8_drop),
        )

    def _export_files(
        self, verifier: FileVerifier, on_stage: Callable[[str], None]
    ) -> list[tuple[RuntimeName, str, Path]]:
        from skd_export.graph.uint8_input import Uint8Input
        from skd_export.verified_export import Calibration, ExportTarget, export_verified

        clip, request = self.request.clip, self.request
        shape = (clip.frames, clip.size, clip.size)
        hashes = [self._compute_clips_hash(clips) for clips in (self.calibration_clips, self.comparison_clips)]
        calibration = Calibration(
            lambda: self._iter_normalised_batches(self.calibration_clips),
            f"{hashes[0]}:{hashes[1]}:{request.int8_agreement}:{request.int8_drop}",
        )
        uint8_input = Uint8Input(self.preprocess) if request.contract == "frames" else None
        target = ExportTarget(self.folder, shape, self.classes, uint8_input=uint8_input)
        onnx_files = export_verified(self.network, request.precisions, target, calibration, verifier, on_stage)
        files: list[tuple[RuntimeName, str, Path]] = [
            (_RUNTIMES.get(name, "ort"), name, path) for name, path in onnx_files.items()
        ]
        if request.litert:
            from skd_export.targets.litert import export_litert

            on_stage("converting for LiteRT (a minute or two)")
            export_litert(self.network, self.folder / "fp32.tflite", clip_shape=shape)
            files.append(("litert", "fp32", self.folder / "fp32.tflite"))
        return files

    def _make_model_file(self, file: ExportedFile, path: Path, measured: MeasuredValues) -> ModelFile:
        from skd_export.analysis.parity import summarize_parity
        from skd_export.bundle.writer import ModelFile
        from skd_export.exporter import QUANTIZED, read_metadata

        options: ModelOptions = {"batch": 1} if file.runtime == "litert" else {"optimisation": "all"}
        if file.precision in QUANTIZED:
            metadata = read_metadata(path)
            options |= {
                "calibration": {
                    "clips": len(self.calibration_clips),
                    "sha256": self._compute_clips_hash(self.calibration_clips),
                },
                "reduce_range": metadata["reduce_range"],
                "per_channel": metadata["per_channel"],
                "excluded": metadata["excluded"],
            }
            if metadata["excluded"]:
                layers = ", ".join(metadata["excluded"])
                self.notes.append(f"{file.precision}: layers kept in FP32 to stay within the bounds: {layers}")
        parity: Mapping[str, object] = summarize_parity(file.parity) if file.parity else {}
        name = self.request.name
        return ModelFile(path, file.precision, name, [name], options, parity, measured, file.runtime)  # type: ignore[arg-type]

    def _compare_file(
        self, verifier: FileVerifier, runtime_name: RuntimeName, precision: str, path: Path
    ) -> tuple[ExportedFile, MeasuredValues]:
        from skd_bench.metrics.accuracy import compute_accuracy

        size = path.stat().st_size
        if not len(self.comparison_clips):
            return ExportedFile(precision, size, None, None, runtime_name), {}
        verified = verifier.verify(path, precision, runtime_name)
        variation = verified.parity["spread"]
        if precision == "fp32" and runtime_name == "ort" and variation < _MIN_LOGIT_VARIATION:
            self.notes.append(
                f"the logits hardly differ between clips (by {variation:.1e} of the largest logit), so the comparison "
                "proves nothing; check that these are the trained weights and clips of the network's classes"
            )
        measured: MeasuredValues = {}
        if self.labels is not None:
            top1 = compute_accuracy(verified.logits, self.labels, self.classes).top1
            measured = {"accuracy": top1.value, "interval": [top1.low, top1.high]}
        return ExportedFile(precision, size, verified.parity, verified.rejection_reason, runtime_name), measured

    def _compute_file_logits(self, path: Path, runtime_name: str) -> Floats:
        from skd_bench.metrics.accuracy import compute_logits
        from skd_bench.runtimes import find_runtime

        session = find_runtime(runtime_name).load(path, threads=1)
        try:
            return compute_logits(session, _iter_clip_batches(self.comparison_clips), self.preprocess)
        finally:
            session.close()

    def _iter_normalised_batches(self, clips: Pixels) -> Iterator[Floats]:
        return (normalise(batch, self.preprocess) for batch in _iter_clip_batches(clips))

    def _compute_clips_hash(self, clips: Pixels) -> str:
        return hashlib.sha256(clips.tobytes()).hexdigest()


def _iter_clip_batches(clips: Pixels) -> Iterator[Pixels]:
    return (clips[i : i + _BATCH_SIZE] for i in range(0, len(clips), _BATCH_SIZE))


def _build_notes(
    videos: DecodedVideos | None, labels: NDArray[np.int64] | None, calibration_count: int, comparison_count: int
) -> list[str]:
    if videos is None:
        return ["nothing was compared: no real clips were given (--clips); the files were only checked as valid ONNX"]
    notes = (
        [f"{len(videos.decode_errors)} videos could not be read, the first: {videos.decode_errors[0]}"]
        if videos.decode_errors
        else []
    )
    notes += [videos.left_out] if videos.left_out else []
    if comparison_count < _MIN_COMPARED_CLIPS:
        notes.append(
            f"{comparison_count} clips were compared; {_MIN_COMPARED_CLIPS} are needed to tell 98 % from 99.5 %"
        )
    if calibration_count and len(set(videos.labels[:calibration_count].tolist())) == 1 and len(videos.folders) > 0:
        notes.append("INT8 was calibrated on clips of one class only; clips of other classes may exceed its ranges")
    if labels is None:
        notes.append("the names of the clips' folders are not classes, so the accuracy is not known")
    return notes
