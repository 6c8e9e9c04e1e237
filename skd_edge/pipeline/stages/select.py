"""The candidate to ship is chosen on the validation clips."""

from __future__ import annotations

from skd_edge.evaluation.evaluator import CandidateResult
from skd_edge.labels.dataset import TrainingData
from skd_edge.pipeline.console import RunConsole
from skd_edge.pipeline.stages.benchmark_untrained import (
    median_ms,
)
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run
from skd_edge.schedule.candidates import (
    Candidate,
    pool_latency_by_deployment,
)
from skd_edge.schedule.selection import CandidateMetrics, Decision, select_candidate


def select_on_validation(
    recipe: Recipe,
    run: Run,
    training_data: TrainingData,
    candidate_results: dict[Candidate, CandidateResult],
    budget_ms: float | None,
    console: RunConsole,
) -> Decision:
    """Choose on the validation clips; the test clips are not looked at here."""
    size_or_energy_limit = (
        recipe.choice.max_megabytes or recipe.choice.max_joules
    )  # a slower precision may be wanted for these
    latency_ms = pool_latency_by_deployment({c: median_ms(w.latency) for c, w in candidate_results.items()})
    metrics = [
        CandidateMetrics(
            c.name,
            latency_ms[c],
            w.accuracy.top1.value,
            w.correct,
            w.accuracy.macro_f1,
            w.path.stat().st_size / 1e6,
            w.rejection_reason or (None if size_or_energy_limit else w.not_faster_reason),
            w.latency.joules.value if w.latency.joules else None,
        )
        for c, w in candidate_results.items()
    ]
    decision = select_candidate(metrics, recipe.choice, budget_ms, training_data.clips.val.groups)
    run.record_event("chosen", name=decision.chosen, why=decision.why, reasons=decision.reasons)
    for m in sorted(metrics, key=lambda m: m.p50_ms):
        mark = "->" if m.name == decision.chosen else "  "
        console.log(f"{mark} {m.name}: {m.accuracy:.1%}, {m.p50_ms:.2f} ms; {decision.reasons.get(m.name, '')}")
    return decision
