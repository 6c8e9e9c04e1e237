"""Quantisation-aware training (QAT) of a student whose INT8 file is outside its bounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from skd_edge.evaluation.candidate_exporter import TrainedExporter
from skd_edge.execution.job_graph import TrainingJob
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.models.builder import AnyNetwork
from skd_export.exporter import read_metadata

_LEARNING_RATE_FACTOR = 0.1  # times the job's learning rate: the trained weights need only small changes


def is_int8_out_of_bounds(int8: Path) -> bool:
    """Whether an INT8 file is outside its bounds although its most sensitive layers were left in FP32.

    Raises:
        UserError: The file's metadata is missing.
    """
    quantization_facts = read_metadata(int8)
    return bool(quantization_facts["tried"]) and not quantization_facts["excluded"]


def make_qat_job(job: TrainingJob, epochs: int, bits: int) -> TrainingJob:
    """The QAT job that continues a student's job: with the same teacher, labels and losses, and a lower learning rate.

    Args:
        job: the student's finished job.
        epochs: passes over the training clips.
        bits: number of bits that weights are rounded to, 7 or 8.
    """
    training = job.spec.training.model_copy(
        update={"rate": _LEARNING_RATE_FACTOR * job.spec.training.rate, "prefix": 0.0}
    )
    spec = replace(job.spec, start=job.hash, epochs=epochs, training=training, rounded=bits, weak=False)
    return replace(job, spec=spec, start=job)


def describe_qat(job: TrainingJob, int8: Path, epochs: int) -> str:
    """A line for the console: why a student gets quantisation-aware training."""
    reason = read_metadata(int8)["tried"][0]
    return f"{job.spec.name}: {int8.stem.upper()} is outside its bounds ({reason}); training {epochs} epochs of QAT"


def fine_tune_int8(
    exporter: TrainedExporter, executor: LocalExecutor, job: TrainingJob, network: AnyNetwork, int8: Path
) -> tuple[Path, str]:
    """Continue a student with quantisation-aware training, and export its INT8 file again.

    Args:
        exporter: writes the new file and compares it with ``network``.
        executor: trains the QAT job, unless it is finished already.
        job: the student's finished job.
        network: the student's network before QAT, in eval mode.
        int8: the student's INT8 file (``int8.onnx`` or ``int8-trt.onnx``), which is outside its bounds.

    Returns:
        The new file, or ``int8`` if the new one is also outside its bounds; and a sentence for the report.

    Raises:
        UserError: The training fails (see `LocalExecutor.train_job`), or the export does.
    """
    epochs, bits = exporter.exporter.recipe.export.qat_epochs, 7 if read_metadata(int8)["reduce_range"] else 8
    qat_job = make_qat_job(job, epochs, bits)
    executor.train_job(qat_job)
    precision = int8.stem
    tuned = exporter.export(executor.load_network(qat_job), qat_job.hash, (precision,), reference=network)[precision]
    accepted = not is_int8_out_of_bounds(tuned)
    outcome = "within its bounds" if accepted else f"still outside its bounds: {read_metadata(tuned)['tried'][0]}"
    training = f"quantisation-aware training ({epochs} epochs, job {qat_job.hash})"
    name = precision.upper()
    return (tuned if accepted else int8), f"{job.spec.name}: {name} needed {training}; it is {outcome}."
