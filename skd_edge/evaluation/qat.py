"""Where quantising a student costs too much: it goes on for a few epochs, rounded as its INT8 file, still taught."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from skd_edge.evaluation.evaluator import CandidateEvaluator
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


def fine_tune_int8(
    evaluator: CandidateEvaluator, executor: LocalExecutor, job: TrainingJob, network: AnyNetwork, int8: Path
) -> Path:
    """The INT8 file of the student after quantisation-aware training; the old one where that is refused as well.

    Args:
        evaluator: Exports and judges.
        executor: Trains; a job that is trained already is found again.
        job: The student's finished job.
        network: Its network, in evaluation mode: what the new file is compared with.
        int8: Its file, which is outside its bounds.
    """
    epochs, bits = evaluator.recipe.export.qat_epochs, 7 if read_metadata(int8)["reduce_range"] else 8
    qat_job = make_qat_job(job, epochs, bits)
    evaluator.log(
        f"{job.spec.name}: INT8 is outside its bounds ({read_metadata(int8)['tried'][0]}); {epochs} epochs of QAT"
    )
    executor.on_progress = lambda job, row: None
    executor.train_job(qat_job)
    fine_tuned_file = evaluator.export_trained(
        executor.load_network(qat_job), qat_job.hash, ("int8",), reference_network=network
    )["int8"]
    accepted = not is_int8_out_of_bounds(fine_tuned_file)
    outcome = (
        "within its bounds" if accepted else "still outside its bounds: " + read_metadata(fine_tuned_file)["tried"][0]
    )
    evaluator.warnings.append(
        f"{job.spec.name}: INT8 needed quantisation-aware training ({epochs} epochs, job {qat_job.hash}); it is {outcome}."
    )
    return fine_tuned_file if accepted else int8
