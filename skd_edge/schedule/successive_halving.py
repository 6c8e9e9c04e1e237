"""Decides which jobs to train next: all cascades at once, or successive halving of the students.

A rung is a student's job with fewer epochs. It is a job of its own, with a complete learning-rate cycle and its own
hash. A student that passes a rung starts again from the beginning. The final jobs are therefore exactly those of an
exhaustive search (same hashes, same weights), and each search finds the jobs of the other in the cache.

Latency is known before training, so a rung compares students by the same criterion as the final choice: its metric, or
without a budget that metric at the recipe's exchange rate. The best student of the rungs comes first:

1. It is trained without assistants.
2. Each assistant, in the order of the paths, is trained in full by each of its possible predecessors, and the best
   predecessor is kept. All students share these jobs. Rungs are not used here: an assistant's final accuracy predicted
   how well it teaches, its accuracy at a rung did not.
3. The student is trained by the two most accurate predecessors, because the most accurate teacher is not always best.

The other remaining students follow in the same path, as far as the stop rules allow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from skd_bench.stats import Interval
from skd_edge.execution.job_graph import JobFactory, TrainingJob, build_job_graph, topological_order
from skd_edge.execution.job_results import JobResult
from skd_edge.recipe.schema import NetworkSpec, Recipe
from skd_edge.schedule.choice_metric import ChoiceMetric
from skd_edge.schedule.duration_model import DurationModel

CascadePath = tuple[str, ...]
JobResults = Mapping[str, JobResult]  # by hash
JobBatches = Generator[list[TrainingJob], JobResults, None]
RecordEvent = Callable[..., None]
_BEST_PREDECESSORS = 2  # number of predecessors by which a student is trained in full


class Search:
    """Decides step by step which jobs are trained: `ask` returns the next jobs, `tell` takes their results.

    Args:
        job_factory: makes the jobs of the recipe.
        students: the students within the budget.
        p50_ms: median milliseconds of each student at its fastest deployment, by name.
        metric: the metric of the choice, with the validation clips.
        record_event: called with ``(event, **details)`` for each decision and its reason.

    Attributes:
        pruned: why a cascade is not trained in full, by its path from the teacher to the student.
    """

    def __init__(
        self,
        job_factory: JobFactory,
        students: Sequence[NetworkSpec],
        p50_ms: Mapping[str, float],
        metric: ChoiceMetric,
        record_event: RecordEvent = lambda event, **details: None,
    ) -> None:
        self.job_factory, self.students, self.p50_ms = job_factory, students, p50_ms
        self.metric, self.record_event = metric, record_event
        self.pruned: dict[CascadePath, str] = {}
        self._batches = self._iter_job_batches()
        self._results: JobResults | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe of the job factory."""
        return self.job_factory.recipe

    def ask(self) -> list[TrainingJob]:
        """The jobs to train next, teachers before learners; an empty list if the search is finished.

        A search keeps no state between processes. Repeated from the beginning, it asks for the same jobs, and the
        executor finds the finished ones by their hashes.
        """
        results, self._results = self._results, None
        try:
            return next(self._batches) if results is None else self._batches.send(results)
        except StopIteration:
            return []

    def tell(self, results: Iterable[JobResult]) -> None:
        """Take the results of the jobs that `ask` returned last."""
        self._results = {result.job.hash: result for result in results}

    def _iter_job_batches(self) -> JobBatches:
        if self.recipe.uses_successive_halving:
            yield from _SuccessiveHalving(self).iter_job_batches()
        else:
            yield build_job_graph(self.job_factory, self.students)


def run_search(search: Search, train: Callable[[list[TrainingJob]], list[JobResult]]) -> list[JobResult]:
    """Train all jobs that a search asks for.

    Args:
        search: decides which jobs are trained.
        train: trains the given jobs and returns their results.

    Returns:
        All results, in the order of training.
    """
    results: list[JobResult] = []
    while jobs := search.ask():
        new_results = train(jobs)
        search.tell(new_results)
        results += new_results
    return results


class _SuccessiveHalving:
    """The state of one search by successive halving."""

    def __init__(self, search: Search) -> None:
        self.search, self.recipe, self.rule = search, search.recipe, search.recipe.schedule
        self.results: dict[str, JobResult] = {}
        self.counted: set[str] = set()  # hashes of the jobs that count for the stop rules: all but the controls
        self.duration_model = DurationModel(self.recipe.clip)
        self.yielded: set[tuple[str, CascadePath, str]] = set()
        # Direct jobs of the best students; they are trained whatever the stop rules say.
        self.reserved: list[TrainingJob] = []
        self.best_paths: dict[str, CascadePath] = {}  # the best path that ends in each assistant, by its name
        # Paths through assistants. The direct cascade is trained for every student first.
        self.paths = [p for p in self.recipe.cascade_paths if p]
        self.stop_reason = ""
        self.student_jobs: dict[CascadePath, TrainingJob] = {}
        self.all_jobs: dict[str, TrainingJob] = {}

    # -------------------------------------------------------------------------------------------- the steps
    def iter_job_batches(self) -> JobBatches:
        remaining = list(self.search.students)
        for share in self.rule.rungs:
            if len(remaining) > self.rule.keep:
                rungs = {s.name: truncate_job(self._student_job(s), share) for s in remaining}
                yield from self._train_jobs(rungs.values())
                remaining = self._select_better_students(
                    remaining, {name: self.results[job.hash] for name, job in rungs.items()}, share
                )
        if len(remaining) == len(self.search.students):  # no rung took place: the direct jobs rank the students
            yield from self._train_jobs(self._student_job(s) for s in remaining)
            remaining.sort(key=lambda s: -self._job_score(self._student_job(s)))
        certain = remaining[: self.rule.keep]
        self.reserved = [self._student_job(s) for s in certain]
        # Together, because these jobs are trained whatever their results are: none has to wait for another's.
        yield from self._train_jobs(self.reserved, controls=self._make_controls(certain))
        trained = []
        # The best student with all its cascades first, because the stop rules may prevent later jobs.
        for student in remaining:
            student_job = self._student_job(student)
            if (
                student_job in self.reserved
                or student_job.hash in self.results
                or self._is_within_stop_rules([student_job])
            ):
                trained.append(student)
                yield from self._train_jobs([student_job])
                yield from self._train_cascades(student)
            else:
                for path in ((), *self.paths):
                    self._prune_cascade(student, path, self.stop_reason)
        yield from self._train_jobs((), controls=self._make_controls(trained))

    def _make_controls(self, students: Iterable[NetworkSpec]) -> list[TrainingJob]:
        factory = self.search.job_factory
        make_control = {"alone": factory.make_labels_only_job, "kd": factory.make_plain_kd_job}
        return [make_control[kind](s) for s in students for kind in self.rule.controls]

    def _train_cascades(self, student: NetworkSpec) -> JobBatches:
        """Train the assistants by their best predecessors, within the stop rules; then the student by its best two."""
        for assistant in _sort_by_rank(self.recipe.assistants, self.paths):
            before = {path[: path.index(assistant.name)] for path in self.paths if assistant.name in path}
            if assistant.name in self.best_paths:
                continue
            options = sorted((p for p in before if not p or self.best_paths.get(p[-1]) == p), key=lambda p: (len(p), p))
            options = self._filter_affordable(student, assistant, options)
            if options:
                best = yield from self._find_best_predecessor(assistant, options)
                self.best_paths[assistant.name] = (*best, assistant.name)
        yield from self._train_student(student, [path for path in self.best_paths.values() if path in self.paths])
        for path in self.paths:
            if path not in self.best_paths.values():
                cut_off = self.stop_reason and any(n not in self.best_paths for n in path)
                reason = self.stop_reason if cut_off else "one of its assistants is better with another predecessor"
                self._prune_cascade(student, path, reason)

    def _filter_affordable(
        self, student: NetworkSpec, assistant: NetworkSpec, options: list[CascadePath]
    ) -> list[CascadePath]:
        """The predecessors that can be compared so that the student's own job is still within the stop rules.

        All of them if possible, otherwise the first, otherwise none.
        """
        for some in (options, options[:1]):
            costs = [self._assistant_job(assistant, path) for path in some]
            if some and self._is_within_stop_rules([*costs, self._student_job(student, *some[0], assistant.name)]):
                return some
        return []

    def _find_best_predecessor(
        self, assistant: NetworkSpec, options: list[CascadePath]
    ) -> Generator[list[TrainingJob], JobResults, CascadePath]:
        """Train an assistant by each of these paths, and return the path with the highest score."""
        yield from self._train_jobs(self._assistant_job(assistant, path) for path in options)
        jobs = {path: self._assistant_job(assistant, path) for path in options}
        best = max(options, key=lambda path: self._job_score(jobs[path]))
        if len(options) > 1:
            accuracy_by_path = {">".join(p) or "direct": self.results[job.hash].accuracy for p, job in jobs.items()}
            self.search.record_event(
                "predecessor", learner=assistant.name, chosen=">".join(best) or "direct", accuracy=accuracy_by_path
            )
        return best

    def _train_student(self, student: NetworkSpec, options: list[CascadePath]) -> JobBatches:
        """Train a student by its two best predecessors, except those that are less accurate than the student itself."""
        direct = self._student_job(student)
        teachers = {path: self._assistant_job(self.recipe.networks[path[-1]], path[:-1]) for path in options}
        order = sorted(options, key=lambda path: -self._job_score(teachers[path]))
        for place, path in enumerate(order):
            ahead = self._compare_jobs(teachers[path], direct)
            if ahead.high < 0:
                gap = f"{_format_points(ahead)} against the student trained without it"
                self._prune_cascade(student, path, f"cannot win any more: {path[-1]} has {gap}")
            elif place >= _BEST_PREDECESSORS:
                self._prune_cascade(student, path, f"not among the best {_BEST_PREDECESSORS} predecessors")
            elif self._is_within_stop_rules([self._student_job(student, *path)]):
                yield from self._train_jobs([self._student_job(student, *path)])
            else:
                self._prune_cascade(student, path, self.stop_reason)

    def _train_jobs(self, jobs: Iterable[TrainingJob], controls: Iterable[TrainingJob] = ()) -> JobBatches:
        """Ask for these jobs and those they require, except jobs that were asked for before."""
        wanted = topological_order(jobs)
        self.counted |= {n.hash for n in wanted}
        # The role is part of the key: a rung with all epochs equals the final job, and results are needed for both.
        new = [
            n for n in topological_order([*wanted, *controls]) if (n.hash, n.spec.path, n.spec.role) not in self.yielded
        ]
        if new:
            results = yield new
            for result in results.values():
                self.duration_model.add_result(result)
            self.results |= results
            self.yielded |= {(n.hash, n.spec.path, n.spec.role) for n in new}

    # -------------------------------------------------------------------------------------------- decisions
    def _select_better_students(
        self, students: list[NetworkSpec], results: Mapping[str, JobResult], share: float
    ) -> list[NetworkSpec]:
        """The better students by the criterion of the choice; the cascades of the others are pruned."""
        order = sorted(students, key=lambda s: -self._compute_utility(s, results[s.name]))
        leader, remaining = order[0], order[:1]
        count = max(self.rule.keep, math.ceil(len(students) / self.rule.eta))
        for place, student in enumerate(order[1:], 1):
            ahead = self._compare_results(results[student.name], results[leader.name])
            hopeless = self._cannot_win(student, leader, ahead)
            if place < count and not (hopeless and place >= self.rule.keep):
                remaining.append(student)
                continue
            why = "cannot win any more" if hopeless else f"only the best {count} of {len(students)} students continue"
            for path in ((), *self.paths):
                gap = f"{_format_points(ahead)} against {leader.name} after {share:.0%} of the epochs"
                self._prune_cascade(student, path, f"{why}: {gap}")
        self.search.record_event(
            "rung",
            share=share,
            survivors=[s.name for s in remaining],
            accuracy={s.name: results[s.name].accuracy for s in order},
        )
        return remaining

    def _compute_utility(self, student: NetworkSpec, result: JobResult) -> float:
        """Points of the metric; without a budget, minus those that the exchange rate demands for the latency."""
        points = 100 * self._compute_score(result)
        if self.recipe.choice.budget is not None:
            return points
        ten_percent_steps = math.log(self.search.p50_ms[student.name]) / math.log(1.1)
        return points - self.recipe.choice.exchange * ten_percent_steps

    def _cannot_win(self, student: NetworkSpec, leader: NetworkSpec, ahead: Interval) -> bool:
        """Whether even the upper end of the interval is too low; a faster student may be behind by the margin."""
        if self.recipe.choice.budget is None:
            return False
        faster = self.search.p50_ms[student.name] < self.search.p50_ms[leader.name]
        return 100 * ahead.high < (-self.recipe.choice.margin if faster else 0.0)

    def _is_within_stop_rules(self, jobs: Iterable[TrainingJob]) -> bool:
        """Whether these jobs and the reserved ones are within the stop rules; if not, ``stop_reason`` says why."""
        new = {n.hash: n for n in topological_order([*jobs, *self.reserved]) if n.hash not in self.counted}
        job_count, rule = len(self.counted) + len(new), self.rule
        seconds = sum(self.results[h].seconds for h in self.counted) + sum(map(self._job_seconds, new.values()))
        limit = rule.share * self._exhaustive_seconds if rule.share else math.inf
        if rule.max_jobs is not None and job_count > rule.max_jobs:
            self.stop_reason = f"stopped at schedule.max_jobs {rule.max_jobs}"
        elif rule.max_seconds is not None and seconds > rule.max_seconds:
            self.stop_reason = f"stopped at schedule.max_seconds {rule.max_seconds:g}"
        elif seconds > limit:
            self.stop_reason = (
                f"stopped at schedule.share: beyond {rule.share:.0%} of the seconds of training all cascades"
            )
        else:
            return True
        return False

    @property
    def _exhaustive_seconds(self) -> float:
        """Seconds of an exhaustive search (jobs of shared path beginnings count once): measured, or else estimated."""
        if not self.all_jobs:
            student_jobs = (self._student_job(s, *path) for s in self.search.students for path in ((), *self.paths))
            self.all_jobs = {n.hash: n for n in topological_order(student_jobs)}
        return sum(map(self._job_seconds, self.all_jobs.values()))

    def _job_seconds(self, job: TrainingJob) -> float:
        """Seconds of a job: measured, or else estimated."""
        result = self.results.get(job.hash)
        return self.duration_model.estimate_seconds(job) if result is None else result.seconds

    # -------------------------------------------------------------------------------------------- jobs and results
    def _student_job(self, student: NetworkSpec, *path: str) -> TrainingJob:
        key = (*path, student.name)
        if key not in self.student_jobs:  # expensive: hashes the file of a given teacher, or calls its factory
            self.student_jobs[key] = self.search.job_factory.make_cascade_job(student, path)
        return self.student_jobs[key]

    def _assistant_job(self, assistant: NetworkSpec, path: CascadePath) -> TrainingJob:
        (job,) = (
            n
            for n in topological_order([self._student_job(self.search.students[0], *path, assistant.name)])
            if n.spec.path[1:] == (*path, assistant.name)
        )
        return job

    def _job_score(self, job: TrainingJob) -> float:
        return self._compute_score(self.results[job.hash])

    def _compute_score(self, result: JobResult) -> float:
        """The metric of the choice, 0..1; the accuracy as it is recorded, where that is the metric."""
        metric = self.search.metric
        return result.accuracy if metric.metric == "accuracy" else metric.compute_value(result.predictions)

    def _compare_jobs(self, one: TrainingJob, other: TrainingJob) -> Interval:
        return self._compare_results(self.results[one.hash], self.results[other.hash])

    def _compare_results(self, one: JobResult, other: JobResult) -> Interval:
        return self.search.metric.compute_difference(one.predictions, other.predictions)

    def _prune_cascade(self, student: NetworkSpec, path: CascadePath, reason: str) -> None:
        whole = (self.recipe.teacher.name, *path, student.name)
        if whole not in self.search.pruned:
            self.search.pruned[whole] = reason
            self.search.record_event("pruned", cascade=">".join(whole), student=student.name, reason=reason)


def truncate_job(job: TrainingJob, share: float) -> TrainingJob:
    """The rung of a job: the same training with fewer epochs.

    Args:
        job: a student's job.
        share: share of its epochs, in 0..1; at least one epoch remains.
    """
    spec = replace(job.spec, epochs=max(round(share * job.spec.epochs), 1), role="rung")
    return replace(job, spec=spec)


def _sort_by_rank(assistants: Sequence[NetworkSpec], paths: Iterable[CascadePath]) -> list[NetworkSpec]:
    """Assistants in the order in which they occur on the paths; in the listed order if the paths form a cycle."""
    before: dict[str, set[str]] = {a.name: set() for a in assistants}
    for path in paths:
        for first, then in pairwise(path):
            before[then].add(first)
    with suppress(CycleError):
        rank = {name: i for i, name in enumerate(TopologicalSorter(before).static_order())}
        return sorted(assistants, key=lambda a: rank[a.name])
    return list(assistants)


def _format_points(ahead: Interval) -> str:
    return f"{100 * ahead.value:+.1f} points [{100 * ahead.low:+.1f}, {100 * ahead.high:+.1f}]"
