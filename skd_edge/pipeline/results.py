"""The frozen results of a run's stages. Each stage takes the results of earlier stages and returns its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skd_bench.benchmark.latency import LatencyResult
from skd_edge.evaluation.file_scorer import CandidateResult
from skd_edge.execution.job_results import JobResult
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.labels.dataset import TrainingData
from skd_edge.recipe.schema import NetworkSpec, Recipe
from skd_edge.report.schema import TestReport
from skd_edge.schedule.candidates import TEACHER_KEY, Candidate, median_ms
from skd_edge.schedule.selection import Decision

CascadePath = tuple[str, ...]


@dataclass(frozen=True)
class UntrainedBenchmark:
    """Latency of every candidate with random weights, and the students that are within the budget.

    Attributes:
        recipe: the recipe; where it said ``auto``, with the networks that were proposed.
        latency: by deployment key (``"small int8"``), and the teacher's under `TEACHER_KEY` where it could be exported.
        megabytes: size of each file, by the same keys; trained files have the same size.
        unrunnable: why a runtime cannot run a file, by deployment key.
        budget_ms: the latency budget, milliseconds; None where the recipe has none.
        students: the students within the budget; only these are trained.
        dropped: why each other student is not trained, by name.
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
        """Median latency in milliseconds, by the keys of ``latency``."""
        return {name: median_ms(one) for name, one in self.latency.items()}

    @property
    def teacher_exported(self) -> bool:
        """Whether the teacher has a file to compare students with."""
        return TEACHER_KEY in self.latency


@dataclass(frozen=True)
class TrainedCascade:
    """The finished jobs.

    Attributes:
        job_results: in the order of training.
        pruned: why a cascade was not trained to the end, by its path from the teacher to the student.
        executor: reads the networks and pseudo-labels of these jobs.
    """

    job_results: tuple[JobResult, ...]
    pruned: Mapping[CascadePath, str]
    executor: LocalExecutor

    def find(self, path: CascadePath) -> JobResult | None:
        """The finished job at the end of a path; None where that cascade was not trained."""
        cascade_results = (f for f in self.job_results if f.job.spec.role in ("student", "teacher"))
        return next((f for f in cascade_results if f.job.spec.path == path), None)


@dataclass(frozen=True)
class EvaluatedCandidates:
    """Latency and accuracy of every trained student's files.

    Attributes:
        results: by candidate.
        teacher: the teacher's FP32 file; None where the teacher could not be exported.
        warnings: sentences for the report about these files.
    """

    results: Mapping[Candidate, CandidateResult]
    teacher: CandidateResult | None
    warnings: tuple[str, ...]

    def find(self, name: str | None) -> Candidate | None:
        """The candidate with this name; None where there is none, or ``name`` is None."""
        return next((c for c in self.results if c.name == name), None)


@dataclass(frozen=True)
class RunResult:
    """The results of all stages, from which the report is built.

    Attributes:
        benchmark: latency with random weights, and the students within the budget.
        data: training and validation clips, and their labels.
        trained: the finished jobs.
        evaluated: latency and accuracy of the trained files.
        decision: which candidate to ship, and why.
        test: the chosen file on the test clips; None where nothing was chosen.
        bundle: the folder that goes to the device.
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
        """The candidate to ship; None where nothing was chosen."""
        return self.evaluated.find(self.decision.chosen)

    @property
    def untrained_reasons(self) -> dict[CascadePath, str]:
        """Why cascades were not trained to the end, by path. A student that was dropped by the budget has one path."""
        teacher = self.benchmark.recipe.teacher.name
        reasons: dict[CascadePath, str] = {(teacher, student): why for student, why in self.benchmark.dropped.items()}
        return reasons | dict(self.trained.pruned)


@dataclass(frozen=True)
class TestResult:
    """The chosen file on the test clips.

    Attributes:
        report: the section ``test`` of the report.
        logits: ``(N, C)`` logits of the chosen file.
        labels: ``(N,)`` classes of the test clips.
        clips: names of the N test clips.
        answers: ``(N,)`` predicted classes, by role: ``chosen``, and beside it ``teacher``, ``alone``, ``kd``.
    """

    report: TestReport
    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    clips: tuple[str, ...]
    answers: Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class WrittenBundle:
    """The bundle of a run.

    Attributes:
        folder: where it was written; None: nothing was chosen, and the bundle of an earlier choice was deleted.
        warnings: sentences for the report about the bundle's additional files.
    """

    folder: Path | None
    warnings: tuple[str, ...] = ()
