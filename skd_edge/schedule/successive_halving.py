"""What to train next: all cascades, or successive halving of the students and the best predecessors of those left.

A rung is a student's job with fewer epochs: a job of its own, with its own whole learning-rate cycle and its own hash.
What goes on after a rung begins anew, so the jobs at the end are the very jobs that an exhaustive search would train
(same hashes, same weights), and either finds the other's in the cache.

Milliseconds are known before training, so a rung compares what the choice compares: accuracy, or accuracy at the
recipe's exchange rate where there is no budget. The leader of the rungs comes first: the cascade without assistants to
the end, then each assistant, in order, by each of its predecessors to the end (the best-predecessor programme: all
students share these jobs, and an assistant's accuracy at the end foretold what it teaches, where a rung did not), then
the leader by the two most accurate of them, since a stronger teacher is not always the better one. The other students
that are left follow in the same way, while the stop rules let them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from skd_bench.stats import Interval, paired_difference
from skd_edge.execution.job_graph import JobFactory, TrainingJob, build_job_graph, topological_order
from skd_edge.execution.local_executor import JobResult
from skd_edge.recipe.schema import NetworkSpec, Recipe
from skd_edge.schedule.duration_model import DurationModel

CascadePath = tuple[str, ...]
JobResults = Mapping[str, JobResult]  # by hash
JobBatches = Generator[list[TrainingJob], JobResults, None]
RecordEvent = Callable[..., None]
_BEST_PREDECESSORS = 2  # predecessors that a student tries to the end


class Search:
    """Which jobs are trained, step by step: `ask` for the next ones, `tell` their results.

    ``pruned`` has the reason of every cascade that is not trained to the end.

    Args:
        job_factory: makes the jobs.
        students: those within the budget.
        p50_ms: of each student at its fastest precision, by name.
        groups: ``(N,)`` source videos of the validation clips, for paired intervals.
        record_event: ``(event, **facts)``: where decisions go with their reasons.

    Attributes:
        pruned: the reason of every cascade that was given up, by its path from the teacher.
    """

    def __init__(
        self,
        job_factory: JobFactory,
        students: Sequence[NetworkSpec],
        p50_ms: Mapping[str, float],
        groups: NDArray[np.int64],
        record_event: RecordEvent = lambda event, **facts: None,
    ) -> None:
        self.job_factory, self.students, self.p50_ms = job_factory, students, p50_ms
        self.groups, self.record_event = groups, record_event
        self.pruned: dict[CascadePath, str] = {}
        self._batches = self._iter_job_batches()
        self._results: JobResults | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe, its proposals written out."""
        return self.job_factory.recipe

    def ask(self) -> list[TrainingJob]:
        """The jobs to train next, teachers first; none where the search is finished.

        What is finished already is found by its hash, so a search may be begun again.
        """
        results, self._results = self._results, None
        try:
            return next(self._batches) if results is None else self._batches.send(results)
        except StopIteration:
            return []

    def tell(self, results: Iterable[JobResult]) -> None:
        """The results of the jobs that `ask` returned last; they decide what comes next."""
        self._results = {result.job.hash: result for result in results}

    def _iter_job_batches(self) -> JobBatches:
        if self.recipe.uses_successive_halving:
            yield from _SuccessiveHalving(self).iter_job_batches()
        else:
            yield build_job_graph(self.job_factory, self.students)


def run_search(search: Search, train: Callable[[list[TrainingJob]], list[JobResult]]) -> list[JobResult]:
    """Train what a search asks for, until it asks for nothing more; the results in the order of training."""
    results: list[JobResult] = []
    while jobs := search.ask():
        new_results = train(jobs)
        search.tell(new_results)
        results += new_results
    return results


class _SuccessiveHalving:
    """The state of one search by halving: what is finished, and what it says of what is not."""

    def __init__(self, search: Search) -> None:
        self.search, self.recipe, self.rule = search, search.recipe, search.recipe.schedule
        self.results: dict[str, JobResult] = {}
        self.duration_model = DurationModel(self.recipe.clip)
        self.yielded: set[tuple[str, CascadePath, str]] = set()
        self.reserved: list[TrainingJob] = []  # the direct cascades of the students that are kept whatever they cost
        self.best_paths: dict[str, CascadePath] = {}  # of each assistant, the best path that ends in it
        self.paths = [
            p for p in self.recipe.cascade_paths if p
        ]  # through assistants: the direct one is every student's first
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
        if len(remaining) == len(self.search.students):  # nothing has said yet who is ahead
            yield from self._train_jobs(self._student_job(s) for s in remaining)
            remaining.sort(key=lambda s: -self._job_accuracy(self._student_job(s)))
        self.reserved = [self._student_job(s) for s in remaining[: self.rule.keep]]
        trained = []
        for student in remaining:  # the leader first, with its cascades: what is spent on the others may come too late
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
        factory = self.search.job_factory
        make_control = {"alone": factory.make_labels_only_job, "kd": factory.make_plain_kd_job}
        yield from self._train_jobs(make_control[kind](s) for s in trained for kind in self.rule.controls)

    def _train_cascades(self, student: NetworkSpec) -> JobBatches:
        """Each assistant by its best predecessor, as far as it can still pay; then the student by its best two."""
        for assistant in _sort_by_rank(self.recipe.assistants, self.paths):
            before = {path[: path.index(assistant.name)] for path in self.paths if assistant.name in path}
            if assistant.name in self.best_paths:
                continue
            options = sorted((p for p in before if not p or self.best_paths.get(p[-1]) == p), key=lambda p: (len(p), p))
            options = self._filter_affordable(student, assistant, options)
            if options:
                best = yield from self._find_best_predecessor(assistant, options)
                self.best_paths[assistant.name] = (*best, assistant.name)
        yield from self._train_student(student, [way for way in self.best_paths.values() if way in self.paths])
        for path in self.paths:
            if path not in self.best_paths.values():
                cut_off = self.stop_reason and any(n not in self.best_paths for n in path)
                self._prune_cascade(
                    student, path, self.stop_reason if cut_off else "another way to one of its assistants was better"
                )

    def _filter_affordable(
        self, student: NetworkSpec, assistant: NetworkSpec, options: list[CascadePath]
    ) -> list[CascadePath]:
        """The predecessors that may be compared, so that the student's own job is still within the stop rules.

        Where that is too much, the first one alone; where even that is, none.
        """
        for some in (options, options[:1]):
            costs = [self._assistant_job(assistant, way) for way in some]
            if some and self._is_within_stop_rules([*costs, self._student_job(student, *some[0], assistant.name)]):
                return some
        return []

    def _find_best_predecessor(
        self, assistant: NetworkSpec, options: list[CascadePath]
    ) -> Generator[list[TrainingJob], JobResults, CascadePath]:
        """Train an assistant by each of these paths; returns the one that it is most accurate by."""
        yield from self._train_jobs(self._assistant_job(assistant, way) for way in options)
        accuracy = {way: self._job_accuracy(self._assistant_job(assistant, way)) for way in options}
        best = max(options, key=lambda way: accuracy[way])
        if len(options) > 1:
            accuracy_by_path = {">".join(way) or "direct": a for way, a in accuracy.items()}
            self.search.record_event(
                "predecessor", learner=assistant.name, chosen=">".join(best) or "direct", accuracy=accuracy_by_path
            )
        return best

    def _train_student(self, student: NetworkSpec, options: list[CascadePath]) -> JobBatches:
        """The student by its best two predecessors, but by none that is worse than the student itself."""
        direct = self._student_job(student)
        teachers = {way: self._assistant_job(self.recipe.networks[way[-1]], way[:-1]) for way in options}
        order = sorted(options, key=lambda way: -self._job_accuracy(teachers[way]))
        for place, way in enumerate(order):
            ahead = self._compare_jobs(teachers[way], direct)
            if ahead.high < 0:
                gap = f"{_format_points(ahead)} against what the student is without it"
                self._prune_cascade(student, way, f"cannot win any more: {way[-1]} has {gap}")
            elif place >= _BEST_PREDECESSORS:
                self._prune_cascade(student, way, f"not among the best {_BEST_PREDECESSORS} predecessors")
            elif self._is_within_stop_rules([self._student_job(student, *way)]):
                yield from self._train_jobs([self._student_job(student, *way)])
            else:
                self._prune_cascade(student, way, self.stop_reason)

    def _train_jobs(self, jobs: Iterable[TrainingJob]) -> JobBatches:
        """Have these trained, and what they need; what is finished is not asked for again."""
        # By role as well: a rung of all epochs is the very job at the end, and both must be told of.
        new = [n for n in topological_order(jobs) if (n.hash, n.spec.path, n.spec.role) not in self.yielded]
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
        """The better part of the students by what the choice goes by; every other one is pruned with its reason."""
        order = sorted(students, key=lambda s: -self._compute_utility(s, results[s.name]))
        leader, remaining = order[0], order[:1]
        count = max(self.rule.keep, math.ceil(len(students) / self.rule.eta))
        for place, student in enumerate(order[1:], 1):
            ahead = _compare_results(results[student.name], results[leader.name], self.search.groups)
            hopeless = self._cannot_win(student, leader, ahead)
            if place < count and not (hopeless and place >= self.rule.keep):
                remaining.append(student)
                continue
            why = "cannot win any more" if hopeless else f"the better {count} of {len(students)} go on"
            for path in ((), *self.paths):
                self._prune_cascade(
                    student,
                    path,
                    f"{why}: {_format_points(ahead)} against {leader.name} after {share:.0%} of the epochs",
                )
        self.search.record_event(
            "rung",
            share=share,
            kept=[s.name for s in remaining],
            accuracy={s.name: results[s.name].accuracy for s in order},
        )
        return remaining

    def _compute_utility(self, student: NetworkSpec, result: JobResult) -> float:
        """Accuracy points; without a budget, less what the student's milliseconds must earn."""
        if self.recipe.choice.budget is not None:
            return 100 * result.accuracy
        ten_percent_steps = math.log(self.search.p50_ms[student.name]) / math.log(1.1)
        return 100 * result.accuracy - self.recipe.choice.exchange * ten_percent_steps

    def _cannot_win(self, student: NetworkSpec, leader: NetworkSpec, ahead: Interval) -> bool:
        """Whether even the upper end of its interval loses: a faster student may be behind by the margin."""
        if self.recipe.choice.budget is None:
            return False
        faster = self.search.p50_ms[student.name] < self.search.p50_ms[leader.name]
        return 100 * ahead.high < (-self.recipe.choice.margin if faster else 0.0)

    def _is_within_stop_rules(self, jobs: Iterable[TrainingJob]) -> bool:
        """Whether these as well, and what is owed, are within the stop rules; if not, ``stopped`` says which one."""
        new = {n.hash: n for n in topological_order([*jobs, *self.reserved]) if n.hash not in self.results}
        job_count, rule = len(self.results) + len(new), self.rule
        seconds = sum(f.seconds for f in self.results.values()) + sum(
            self.duration_model.estimate_seconds(n) for n in new.values()
        )
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
        """Seconds of training every cascade of every student, beginnings shared, as far as can be told now."""
        if not self.all_jobs:
            student_jobs = (self._student_job(s, *path) for s in self.search.students for path in ((), *self.paths))
            self.all_jobs = {n.hash: n for n in topological_order(student_jobs)}
        return sum(
            self.results[h].seconds if h in self.results else self.duration_model.estimate_seconds(n)
            for h, n in self.all_jobs.items()
        )

    # -------------------------------------------------------------------------------------------- small words
    def _student_job(self, student: NetworkSpec, *path: str) -> TrainingJob:
        key = (*path, student.name)
        if key not in self.student_jobs:  # a given teacher is hashed, a factory called, for every leaf
            self.student_jobs[key] = self.search.job_factory.make_cascade_job(student, path)
        return self.student_jobs[key]

    def _assistant_job(self, assistant: NetworkSpec, path: CascadePath) -> TrainingJob:
        (job,) = (
            n
            for n in topological_order([self._student_job(self.search.students[0], *path, assistant.name)])
            if n.spec.path[1:] == (*path, assistant.name)
        )
        return job

    def _job_accuracy(self, job: TrainingJob) -> float:
        return self.results[job.hash].accuracy

    def _compare_jobs(self, one: TrainingJob, other: TrainingJob) -> Interval:
        return _compare_results(self.results[one.hash], self.results[other.hash], self.search.groups)

    def _prune_cascade(self, student: NetworkSpec, path: CascadePath, reason: str) -> None:
        whole = (self.recipe.teacher.name, *path, student.name)
        if whole not in self.search.pruned:
            self.search.pruned[whole] = reason
            self.search.record_event("pruned", cascade=">".join(whole), student=student.name, reason=reason)


def truncate_job(job: TrainingJob, share: float) -> TrainingJob:
    """The same job with this share of its epochs, from the beginning to its own end."""
    spec = replace(job.spec, epochs=max(round(share * job.spec.epochs), 1), role="rung")
    return replace(job, spec=spec)


def _sort_by_rank(assistants: Sequence[NetworkSpec], paths: Iterable[CascadePath]) -> list[NetworkSpec]:
    """Assistants, those first that come before others on the paths; as listed, where the paths go in circles."""
    before: dict[str, set[str]] = {a.name: set() for a in assistants}
    for path in paths:
        for first, then in pairwise(path):
            before[then].add(first)
    with suppress(CycleError):
        rank = {name: i for i, name in enumerate(TopologicalSorter(before).static_order())}
        return sorted(assistants, key=lambda a: rank[a.name])
    return list(assistants)


def _compare_results(one: JobResult, other: JobResult, groups: NDArray[np.int64]) -> Interval:
    return paired_difference(one.correct.astype(float), other.correct.astype(float), groups.tolist())


def _format_points(ahead: Interval) -> str:
    return f"{100 * ahead.value:+.1f} points [{100 * ahead.low:+.1f}, {100 * ahead.high:+.1f}]"
