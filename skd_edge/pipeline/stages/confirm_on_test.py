"""The chosen file meets the test clips, once, beside teacher and controls."""

from __future__ import annotations

from skd_bench.files import sha256_file
from skd_bench.inference.reject_option import RejectOption, choose_threshold
from skd_bench.metrics.accuracy import AccuracyMetrics
from skd_bench.stats import paired_difference
from skd_edge.evaluation.evaluator import CandidateResult
from skd_edge.pipeline.results import Bools, Json, RunResult
from skd_edge.report import builder as build
from skd_edge.test_set_ledger import record_test_access


def compute_reject_option(run_result: RunResult, candidate_result: CandidateResult) -> RejectOption | None:
    """The threshold below which a file keeps silent, set on the validation clips; None where none was asked for.

    It is 1 where not even the surest answers are right as often as ``choice.reject`` asks.
    """
    wanted, val = run_result.recipe.choice.reject, run_result.training_data.clips.val
    if wanted is None:
        return None
    logits = run_result.evaluator.compute_logits(candidate_result.path, val, candidate_result.runtime)
    chosen = choose_threshold(logits, val.labels, wanted.accuracy, val.groups.tolist())
    if chosen is None:
        return RejectOption(1.0, wanted.background)
    return RejectOption(chosen[0], wanted.background)


def evaluate_on_test(run_result: RunResult) -> Json | None:
    """Score the chosen file once on the untouched test clips, beside teacher and controls; note the look.

    All of them run on the chosen one's runtime.
    """
    if run_result.chosen_candidate is None:
        return None
    chosen, test = run_result.candidate_results[run_result.chosen_candidate], run_result.training_data.clips.test
    run_result.evaluator.chosen_candidate = run_result.chosen_candidate.name
    file = sha256_file(chosen.path) + (f" on {chosen.runtime}" if chosen.runtime != "ort" else "")
    access_count = record_test_access(test.hash, run=run_result.run.folder.absolute(), artefact=file)
    files = {"teacher (FP32 file)": run_result.teacher_result.path} if run_result.teacher_result else {}
    for role, name in (("alone", "student alone, weak labels"), ("kd", "student with plain KD")):
        for control in run_result.job_results:
            if control.job.spec.role == role and control.job.spec.learner.name == run_result.chosen_candidate.student:
                network = run_result.executor.load_network(control.job)
                exported = run_result.evaluator.export_trained(network, control.job.hash, ("fp32",))
                files[f"{name} (FP32 file)"] = exported["fp32"]
    files[f"skd-edge: {run_result.chosen_candidate.name}"] = chosen.path
    scored = {name: run_result.evaluator.score_file(path, test, chosen.runtime) for name, path in files.items()}
    accuracy, correct = scored[f"skd-edge: {run_result.chosen_candidate.name}"]
    rows = [_build_test_row(name, *each, correct, test.groups.tolist()) for name, each in scored.items()]
    run_result.run.record_event(
        "confirmed", name=run_result.chosen_candidate.name, test_accuracy=accuracy.top1.value, looks=access_count
    )
    return build.build_test_report(accuracy, rows, access_count, test.hash)


def _build_test_row(name: str, accuracy: AccuracyMetrics, right: Bools, chosen_right: Bools, groups: list[int]) -> Json:
    """One network on the test clips; ``behind`` is by how many points the chosen file leads it, clip by clip."""
    lead = paired_difference(chosen_right.astype(float), right.astype(float), groups)
    return {
        "name": name,
        "accuracy": accuracy.top1.value,
        "interval": [accuracy.top1.low, accuracy.top1.high],
        "macro_f1": accuracy.macro_f1,
        "behind": 100 * lead.value,
        "behind_interval": [100 * lead.low, 100 * lead.high],
    }
