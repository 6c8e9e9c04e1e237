"""Exports the chosen student to a .tflite file and compares the file, run by LiteRT, with the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skd_bench.errors import UserError
from skd_bench.metrics.accuracy import compute_logits
from skd_bench.runtimes import find_runtime
from skd_edge.data.store.clip_store import ClipSplit
from skd_edge.evaluation.file_scorer import FileScorer
from skd_edge.models.builder import AnyNetwork
from skd_edge.models.substages import LogitsOnly
from skd_export.analysis.parity import ParityBounds, compute_torch_logits, summarize_parity
from skd_export.bundle.writer import ModelFile, ModelOptions
from skd_export.targets.litert import TfliteMetadata, explain_missing_converter, export_litert
from skd_export.verified_export import FileVerifier, VerifiedFile


def check_litert_available() -> None:
    """Check that a .tflite file can be written; called before the training, which may take hours.

    Raises:
        UserError: The converter or the runtime is missing; the message says how to install it.
    """
    if reason := explain_missing_converter():
        raise UserError(f"no .tflite file can be written: {reason}")


def write_tflite(scorer: FileScorer, network: AnyNetwork, path: Path, clips: ClipSplit) -> VerifiedTflite:
    """Convert a network to a .tflite file, and compare the file with the network on clips.

    Args:
        scorer: provides the clips in the form that the file takes.
        network: a trained network in eval mode.
        path: the file to write.
        clips: the validation clips.

    Raises:
        UserError: The converter cannot convert the network, or LiteRT cannot run the file.
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
    """A .tflite file that was compared with its network.

    Attributes:
        file: the file and the result of the comparison.
        metadata: what `export_litert` returned.
    """

    file: VerifiedFile
    metadata: TfliteMetadata

    def to_model_file(self, student: str, path: tuple[str, ...]) -> ModelFile:
        """The file's entry in a bundle.

        Args:
            student: name of the student.
            path: names of the networks of its cascade, from the teacher to the student.
        """
        options: ModelOptions = {"batch": self.metadata["batch"], "converter": self.metadata["converter"]}
        parity = summarize_parity(self.file.parity)
        return ModelFile(self.file.path, "fp32", student, list(path), options, parity, runtime="litert")
