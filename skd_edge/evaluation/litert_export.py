"""The chosen student as a .tflite file for LiteRT, held to the bounds of an FP32 file on LiteRT itself."""

from __future__ import annotations

from pathlib import Path

from skd_bench.errors import UserError
from skd_bench.metrics.accuracy import logits_of
from skd_bench.runtimes import runtime
from skd_edge.evaluation.evaluator import Scale
from skd_edge.models.builder import Built
from skd_edge.models.substages import Deployed
from skd_export.analysis.parity import parity, torch_logits, verdict
from skd_export.bundle.writer import ModelFile
from skd_export.targets.litert import export_litert, missing_converter


def require_litert() -> None:
    """Say at once that no .tflite file can be written, not after hours of training.

    Raises:
        UserError: The converter or the runtime is missing; says how to install it.
    """
    if reason := missing_converter():
        raise UserError(f"no .tflite file can be written: {reason}")


def write_tflite(scale: Scale, network: Built, path: Path, *, student: str, names: list[str]) -> ModelFile | None:
    """Convert a network and compare the file with it on the validation clips.

    Args:
        scale: Whose clips, preprocessing and warnings these are.
        network: Trained, in evaluation mode.
        path: Where the file goes.
        student: Its name.
        names: The cascade that trained it.

    Returns:
        The file, ready for a bundle; None where its answers are outside the bounds, which becomes a warning.

    Raises:
        UserError: The converter does not take the network.
    """
    clip, clips = scale.recipe.clip, scale.material.clips.val
    deployed = Deployed(network.cpu()).eval()
    known = export_litert(deployed, path, clip_shape=(clip.frames, clip.size, clip.size))
    session = runtime("litert").load(path, threads=1)
    try:
        said = logits_of(session, scale.first(len(clips)), scale.preprocess)
    finally:
        session.close()
    found = parity(torch_logits(deployed, scale.inputs(clips)), said, clips.labels)
    if reason := verdict(found, "fp32"):
        scale.warnings.append(f"the .tflite file is left out of the bundle: {reason}")
        return None
    kept = {key: value for key, value in found.items() if key != "flips"}
    return ModelFile(path, "fp32", student, names, known, kept, {}, "litert")
