"""What a run found, handed from stage to stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skd_bench.benchmark.latency import LatencyResult
from skd_edge.evaluation.evaluator import CandidateEvaluator, CandidateResult
from skd_edge.execution.local_executor import JobResult, LocalExecutor
from skd_edge.labels.dataset import TrainingData
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run
from skd_edge.schedule.candidates import Candidate
from skd_edge.schedule.selection import Decision

Json = dict[str, Any]


Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class RunResult:
    """Everything a run found out."""

    recipe: Recipe
    run: Run
    training_data: TrainingData
    evaluator: CandidateEvaluator
    executor: LocalExecutor
    job_results: list[JobResult]
    untrained_latency: dict[str, LatencyResult]
    candidate_results: dict[Candidate, CandidateResult]
    teacher_result: CandidateResult | None
    decision: Decision
    budget_ms: float | None
    dropped: dict[str, str]
    pruned: dict[tuple[str, ...], str]

    @property
    def chosen_candidate(self) -> Candidate | None:
        """The candidate to ship."""
        return next((c for c in self.candidate_results if c.name == self.decision.chosen), None)

    @property
    def untrained_reasons(self) -> dict[tuple[str, ...], str]:
        """The cascades that were not trained to the end, and why; one for each student that was never trained."""
        over_budget = {(self.recipe.teacher.name, student): why for student, why in self.dropped.items()}
        return over_budget | self.pruned

    def find_job_result(self, path: tuple[str, ...]) -> JobResult | None:
        """The finished job at the end of a path."""
        cascade_results = (f for f in self.job_results if f.job.spec.role in ("student", "teacher"))
        return next((f for f in cascade_results if f.job.spec.path == path), None)
