"""Quantisation-aware training: a student whose INT8 file is out of bounds goes on for a few epochs, weights rounded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from skd_edge.evaluation.candidate_exporter import TrainedExporter
from skd_edge.execution.job_graph import TrainingJob
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.models.builder import AnyNetwork
from skd_export.exporter import read_metadata

_LEARNING_RATE_FACTOR = 0.1  # of the job's rate: the weights only have to move to where rounding hurts less


def is_int8_out_of_bounds(int8: Path) -> bool:
    """Whether an INT8 file is outside its bounds, also with its costliest layers in FP32."""
    quantization_facts = read_metadata(int8)
    return bool(quantization_facts["tried"]) and not quantization_facts["excluded"]


def make_qat_job(job: TrainingJob, epochs: int, bits: int) -> TrainingJob:
    """The job that goes on from a student's: same teacher, labels and losses, all substages at once."""
    training = job.spec.training.model_copy(
        update={"rate": _LEARNING_RATE_FACTOR * job.spec.training.rate, "prefix": 0.0}
    )
    spec = replace(job.spec, start=job.hash, epochs=epochs, training=training, rounded=bits, weak=False)
    return replace(job, spec=spec, start=job)


def describe_qat(job: TrainingJob, int8: Path, epochs: int) -> str:
    """Why a student goes on with quantisation-aware training, for the console."""
    reason = read_metadata(int8)["tried"][0]
    return f"{job.spec.name}: INT8 is outside its bounds ({reason}); {epochs} epochs of QAT"


def fine_tune_int8(
    exporter: TrainedExporter, executor: LocalExecutor, job: TrainingJob, network: AnyNetwork, int8: Path
) -> tuple[Path, str]:
    """The INT8 file of the student after quantisation-aware training; the old one where that is rejected as well.

    Args:
        exporter: writes the new file, and compares it.
        executor: trains; a job that is trained already is found again.
        job: the student's finished job.
        network: its network, in evaluation mode: what the new file is compared with.
        int8: its file, which is outside its bounds.

    Returns:
        The file, and what the report must say of it.
    """
    epochs, bits = exporter.exporter.recipe.export.qat_epochs, 7 if read_metadata(int8)["reduce_range"] else 8
    qat_job = make_qat_job(job, epochs, bits)
    executor.train_job(qat_job)
    tuned = exporter.export(executor.load_network(qat_job), qat_job.hash, ("int8",), reference=network)["int8"]
    accepted = not is_int8_out_of_bounds(tuned)
    outcome = "within its bounds" if accepted else f"still outside its bounds: {read_metadata(tuned)['tried'][0]}"
    warning = f"{job.spec.name}: INT8 needed quantisation-aware training ({epochs} epochs, job {qat_job.hash}); it is {outcome}."
    return (tuned if accepted else int8), warning
