"""The chosen student as a .tflite file for LiteRT, held to the bounds of an FP32 file on LiteRT itself."""

from __future__ import annotations

from pathlib import Path

from skd_bench.errors import UserError
from skd_bench.metrics.accuracy import compute_logits
from skd_bench.runtimes import find_runtime
from skd_edge.evaluation.evaluator import CandidateEvaluator
from skd_edge.models.builder import AnyNetwork
from skd_edge.models.substages import LogitsOnly
from skd_export.analysis.parity import compute_parity, compute_torch_logits, find_violated_bound
from skd_export.bundle.writer import ModelFile
from skd_export.targets.litert import explain_missing_converter, export_litert


def check_litert_available() -> None:
    """Say at once that no .tflite file can be written, not after hours of training.

    Raises:
        UserError: The converter or the runtime is missing; says how to install it.
    """
    if reason := explain_missing_converter():
        raise UserError(f"no .tflite file can be written: {reason}")


def write_tflite(
    evaluator: CandidateEvaluator, network: AnyNetwork, path: Path, *, student: str, names: list[str]
) -> ModelFile | None:
    """Convert a network and compare the file with it on the validation clips.

    Args:
        evaluator: Whose clips, preprocessing and warnings these are.
        network: Trained, in evaluation mode.
        path: Where the file goes.
        student: Its name.
        names: The cascade that trained it.

    Returns:
        The file, ready for a bundle; None where its answers are outside the bounds, which becomes a warning.

    Raises:
        UserError: The converter does not take the network.
    """
    clip, clips = evaluator.recipe.clip, evaluator.training_data.clips.val
    deployed = LogitsOnly(network.cpu()).eval()
    metadata = export_litert(deployed, path, clip_shape=(clip.frames, clip.size, clip.size))
    session = find_runtime("litert").load(path, threads=1)
    try:
        file_logits = compute_logits(session, evaluator.iter_first_clips(len(clips)), evaluator.preprocess)
    finally:
        session.close()
    comparison = compute_parity(
        compute_torch_logits(deployed, evaluator.iter_network_inputs(clips)), file_logits, clips.labels
    )
    if reason := find_violated_bound(comparison, "fp32"):
        evaluator.warnings.append(f"the .tflite file is left out of the bundle: {reason}")
        return None
    parity_facts = {key: value for key, value in comparison.items() if key != "flips"}
    return ModelFile(path, "fp32", student, names, metadata, parity_facts, {}, "litert")
