"""What each stage of a run found, handed to the stages after it; nothing here changes afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skd_bench.benchmark.latency import LatencyResult
from skd_edge.evaluation.file_scorer import CandidateResult
from skd_edge.execution.local_executor import JobResult, LocalExecutor
from skd_edge.labels.dataset import TrainingData
from skd_edge.recipe.schema import NetworkSpec, Recipe
from skd_edge.schedule.candidates import TEACHER_KEY, Candidate, median_ms
from skd_edge.schedule.selection import Decision

CascadePath = tuple[str, ...]
Json = dict[str, Any]


@dataclass(frozen=True)
class UntrainedBenchmark:
    """Every candidate measured with random weights, and what the budget leaves.

    Attributes:
        recipe: the recipe, its proposed networks written out.
        latency: by deployment key (``"small int8"``), and the teacher's under `TEACHER_KEY` where it could be exported.
        megabytes: of the files, by the same keys; trained ones are as large.
        unrunnable: why a runtime cannot run a file, by the same keys.
        budget_ms: the latency budget; None where the recipe has none.
        students: those that may be trained.
        dropped: why each other student is never trained, by name.
    """

    recipe: Recipe
    latency: Mapping[str, LatencyResult]
    megabytes: Mapping[str, float]
    unrunnable: Mapping[str, str]
    budget_ms: float | None
    students: tuple[NetworkSpec, ...]
    dropped: Mapping[str, str]

    @property
    def p50_ms(self) -> dict[str, float]:
        """Median milliseconds by the keys of ``latency``."""
        return {name: median_ms(one) for name, one in self.latency.items()}

    @property
    def teacher_exported(self) -> bool:
        """Whether the teacher has a file, to compare with."""
        return TEACHER_KEY in self.latency


@dataclass(frozen=True)
class TrainedCascade:
    """The finished jobs.

    Attributes:
        job_results: in the order of training.
        pruned: why a cascade was not trained to the end, by its path from the teacher.
        executor: where networks and pseudo-labels of these jobs are read.
    """

    job_results: tuple[JobResult, ...]
    pruned: Mapping[CascadePath, str]
    executor: LocalExecutor

    def find(self, path: CascadePath) -> JobResult | None:
        """The finished job at the end of a path."""
        cascade_results = (f for f in self.job_results if f.job.spec.role in ("student", "teacher"))
        return next((f for f in cascade_results if f.job.spec.path == path), None)


@dataclass(frozen=True)
class EvaluatedCandidates:
    """Every trained student's files, measured and scored.

    Attributes:
        results: by candidate.
        teacher: the teacher's FP32 file; None where it has none.
        warnings: what the report must say about the files.
    """

    results: Mapping[Candidate, CandidateResult]
    teacher: CandidateResult | None
    warnings: tuple[str, ...]

    def find(self, name: str | None) -> Candidate | None:
        """The candidate of a name."""
        return next((c for c in self.results if c.name == name), None)


@dataclass(frozen=True)
class RunResult:
    """Everything that a run found.

    Attributes:
        benchmark: candidates with random weights, and what the budget leaves.
        data: training and validation clips, and labels.
        trained: the jobs.
        evaluated: the files.
        decision: what to ship.
        test: the chosen file on the test clips; None where nothing was chosen.
        bundle: what travels.
    """

    benchmark: UntrainedBenchmark
    data: TrainingData
    trained: TrainedCascade
    evaluated: EvaluatedCandidates
    decision: Decision
    test: TestResult | None
    bundle: WrittenBundle

    @property
    def chosen(self) -> Candidate | None:
        """The candidate to ship."""
        return self.evaluated.find(self.decision.chosen)

    @property
    def untrained_reasons(self) -> dict[CascadePath, str]:
        """The cascades that were not trained to the end, and why; one for each student that was never trained."""
        teacher = self.benchmark.recipe.teacher.name
        reasons: dict[CascadePath, str] = {(teacher, student): why for student, why in self.benchmark.dropped.items()}
        return reasons | dict(self.trained.pruned)


@dataclass(frozen=True)
class TestResult:
    """The chosen file on the test clips.

    Attributes:
        report: the part ``test`` of the report.
        logits: of the chosen file ``(N, C)``.
        labels: of the test clips ``(N,)``.
    """

    report: Json
    logits: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class WrittenBundle:
    """The bundle of a run.

    Attributes:
        folder: where it is; None: nothing was chosen, and a bundle of an earlier choice is gone.
        warnings: what the report must say about its further files.
    """

    folder: Path | None
    warnings: tuple[str, ...] = ()
