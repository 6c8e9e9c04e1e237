"""Stage 6: choose the candidate to ship, on the validation clips."""

from __future__ import annotations

from skd_bench.metrics.class_averages import METRIC_NAMES
from skd_edge.labels.dataset import TrainingData
from skd_edge.pipeline.context import RunContext
from skd_edge.pipeline.results import EvaluatedCandidates, UntrainedBenchmark
from skd_edge.schedule.candidates import median_ms, pool_latency_by_deployment
from skd_edge.schedule.choice_metric import ChoiceMetric
from skd_edge.schedule.selection import CandidateMetrics, Decision, select_candidate


def select(
    ctx: RunContext, benchmark: UntrainedBenchmark, data: TrainingData, evaluated: EvaluatedCandidates
) -> Decision:
    """Choose by the recipe's section ``choice``; only latency and the metric on the validation clips are used."""
    choice = benchmark.recipe.choice
    # A precision that is not faster than FP32 can still be useful where megabytes or joules are limited.
    speed_alone = not (choice.max_megabytes or choice.max_joules)
    latency_ms = pool_latency_by_deployment({c: median_ms(result.latency) for c, result in evaluated.results.items()})
    clips = data.clips.val
    metric = ChoiceMetric(choice.metric, clips.labels, clips.groups)
    metrics = [
        CandidateMetrics(
            c.name,
            latency_ms[c],
            result.accuracy.metric_interval(choice.metric).value,
            result.predictions,
            result.accuracy.top1.value,
            result.accuracy.macro_f1.value,
            result.path.stat().st_size / 1e6,
            result.rejection_reason or (result.not_faster_reason if speed_alone else None),
            result.latency.joules.value if result.latency.joules else None,
        )
        for c, result in evaluated.results.items()
    ]
    decision = select_candidate(metrics, choice, benchmark.budget_ms, metric)
    ctx.run.record_event("chosen", name=decision.chosen, why=decision.why, reasons=decision.reasons)
    for m in sorted(metrics, key=lambda m: m.p50_ms):
        mark = "->" if m.name == decision.chosen else "  "
        name = "" if choice.metric == "accuracy" else f" {METRIC_NAMES[choice.metric]}"
        ctx.console.log(f"{mark} {m.name}: {m.score:.1%}{name}, {m.p50_ms:.2f} ms; {decision.reasons.get(m.name, '')}")
    return decision
