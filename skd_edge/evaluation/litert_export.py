"""The chosen student as a .tflite file for LiteRT, within the bounds of an FP32 file on LiteRT itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skd_bench.errors import UserError
from skd_bench.metrics.accuracy import compute_logits
from skd_bench.runtimes import find_runtime
from skd_edge.data.store.clip_store import ClipSplit
from skd_edge.evaluation.file_scorer import FileScorer
from skd_edge.models.builder import AnyNetwork
from skd_edge.models.substages import LogitsOnly
from skd_export.analysis.parity import ParityBounds, compute_torch_logits
from skd_export.bundle.writer import ModelFile
from skd_export.targets.litert import explain_missing_converter, export_litert
from skd_export.verified_export import FileVerifier, VerifiedFile


def check_litert_available() -> None:
    """Say at once that no .tflite file can be written, not after hours of training.

    Raises:
        UserError: The converter or the runtime is missing; says how to install it.
    """
    if reason := explain_missing_converter():
        raise UserError(f"no .tflite file can be written: {reason}")


def write_tflite(scorer: FileScorer, network: AnyNetwork, path: Path, clips: ClipSplit) -> VerifiedTflite:
    """Convert a network, and compare the file with it on clips.

    Args:
        scorer: reads the clips as files take them.
        network: trained, in evaluation mode.
        path: where the file goes.
        clips: the validation clips.

    Raises:
        UserError: The converter does not take the network.
    """
    clip, deployed = scorer.recipe.clip, LogitsOnly(network.cpu()).eval()
    metadata = export_litert(deployed, path, clip_shape=(clip.frames, clip.size, clip.size))

    def run_file(path: Path, runtime: str) -> NDArray[np.float32]:
        session = find_runtime(runtime).load(path, threads=1)
        try:
            return compute_logits(session, scorer.iter_first_clips(clips, len(clips)), scorer.preprocess)
        finally:
            session.close()

    verifier = FileVerifier(
        lambda: compute_torch_logits(deployed, scorer.iter_network_inputs(clips)),
        run_file,
        clips.labels,
        ParityBounds(),
    )
    return VerifiedTflite(verifier.verify(path, "fp32", "litert"), metadata)


@dataclass(frozen=True)
class VerifiedTflite:
    """A .tflite file beside the network, and what the converter says of it."""

    file: VerifiedFile
    metadata: dict[str, Any]

    def to_model_file(self, student: str, path: tuple[str, ...]) -> ModelFile:
        """For a bundle: the student's name, and the cascade that trained it."""
        parity = {key: value for key, value in self.file.parity.items() if key != "flips"}
        return ModelFile(self.file.path, "fp32", student, list(path), self.metadata, parity, {}, "litert")
