"""What to train next: all cascades, or successive halving of the students and the best predecessors of those left.

A rung is a student's leg with fewer epochs: a leg of its own, with its own whole learning-rate cycle and its own hash.
What goes on after a rung begins anew, so the legs at the end are the very legs that an exhaustive search would train
(same hashes, same weights), and either finds the other's in the cache.

Milliseconds are known before training, so a rung compares what the choice compares: accuracy, or accuracy at the
recipe's exchange rate where there is no budget. The leader of the rungs comes first: the cascade without assistants to
the end, then each assistant, in order, by each of its predecessors to the end (the best-predecessor programme: all
students share these legs, and an assistant's accuracy at the end foretold what it teaches, where a rung did not), then
the leader by the two most accurate of them, since a stronger teacher is not always the better one. The other students
that are left follow in the same way, while the stop rules let them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from skd_bench.stats import Interval, paired_difference
from skd_edge.execution.job_graph import Legs, Node, every_leg, in_order
from skd_edge.execution.local_executor import Finished
from skd_edge.recipe.schema import Network, Recipe
from skd_edge.schedule.duration_model import Pace

Path = tuple[str, ...]
Results = Mapping[str, Finished]  # by hash
Steps = Generator[list[Node], Results, None]
Journal = Callable[..., None]
_TOP = 2  # predecessors that a student tries to the end


@dataclass
class Search:
    """What is trained, step by step; ``pruned`` says of every cascade that was not trained to the end why.

    Attributes:
        legs: makes the legs.
        students: those within the budget.
        p50_ms: of each student at its fastest precision, by name.
        groups: ``(N,)`` source videos of the validation clips, for paired intervals.
        journal: ``(event, **facts)``: where decisions go with their reasons.
        pruned: the reason of every cascade that was given up, by its path from the teacher.
    """

    legs: Legs
    students: Sequence[Network]
    p50_ms: Mapping[str, float]
    groups: NDArray[np.int64]
    journal: Journal = lambda event, **facts: None
    pruned: dict[Path, str] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """The recipe, its proposals written out."""
        return self.legs.recipe

    def steps(self) -> Steps:
        """Lists of nodes to train, teachers first; the finished ones, by hash, are sent back for each list.

        May be begun again: what is finished is found by its hash.
        """
        self.pruned.clear()
        if not self.recipe.halves:
            yield every_leg(self.legs, self.students)
            return
        yield from _Halving(self).steps()


class _Halving:
    """The state of one search by halving: what is finished, and what it says of what is not."""

    def __init__(self, search: Search) -> None:
        self.search, self.recipe, self.rule = search, search.recipe, search.recipe.schedule
        self.done: dict[str, Finished] = {}
        self.pace = Pace(self.recipe.clip)
        self.known: set[tuple[str, Path, str]] = set()
        self.owed: list[Node] = []  # the direct cascades of the students that are kept whatever they cost
        self.ways: dict[str, Path] = {}  # of each assistant, the best path that ends in it
        self.paths = [p for p in self.recipe.paths if p]  # through assistants: the direct one is every student's first
        self.stopped = ""
        self.leaves: dict[Path, Node] = {}
        self.every: dict[str, Node] = {}

    # -------------------------------------------------------------------------------------------- the steps
    def steps(self) -> Steps:
        left = list(self.search.students)
        for share in self.rule.rungs:
            if len(left) > self.rule.keep:
                rungs = {s.name: rung(self._leaf(s), share) for s in left}
                yield from self._train(rungs.values())
                left = self._better(left, {name: self.done[node.hash] for name, node in rungs.items()}, share)
        if len(left) == len(self.search.students):  # nothing has said yet who is ahead
            yield from self._train(self._leaf(s) for s in left)
            left.sort(key=lambda s: -self._accuracy(self._leaf(s)))
        self.owed = [self._leaf(s) for s in left[: self.rule.keep]]
        trained = []
        for student in left:  # the leader first, with its cascades: what is spent on the others may come too late
            leaf = self._leaf(student)
            if leaf in self.owed or leaf.hash in self.done or self._affords([leaf]):
                trained.append(student)
                yield from self._train([leaf])
                yield from self._cascades(student)
            else:
                for path in ((), *self.paths):
                    self._prune(student, path, self.stopped)
        legs = self.search.legs
        made = {"alone": legs.alone, "kd": legs.plain_kd}
        yield from self._train(made[kind](s) for s in trained for kind in self.rule.controls)

    def _cascades(self, student: Network) -> Steps:
        """Each assistant by its best predecessor, as far as it can still pay; then the student by its best two."""
        for assistant in _by_rank(self.recipe.assistants, self.paths):
            before = {path[: path.index(assistant.name)] for path in self.paths if assistant.name in path}
            if assistant.name in self.ways:
                continue
            options = sorted((p for p in before if not p or self.ways.get(p[-1]) == p), key=lambda p: (len(p), p))
            options = self._payable(student, assistant, options)
            if options:
                best = yield from self._best(assistant, options)
                self.ways[assistant.name] = (*best, assistant.name)
        yield from self._student(student, [way for way in self.ways.values() if way in self.paths])
        for path in self.paths:
            if path not in self.ways.values():
                cut_off = self.stopped and any(n not in self.ways for n in path)
                self._prune(
                    student, path, self.stopped if cut_off else "another way to one of its assistants was better"
                )

    def _payable(self, student: Network, assistant: Network, options: list[Path]) -> list[Path]:
        """The predecessors that may be compared, so that the student's own leg is still within the stop rules.

        Where that is too much, the first one alone; where even that is, none.
        """
        for some in (options, options[:1]):
            costs = [self._to(assistant, way) for way in some]
            if some and self._affords([*costs, self._leaf(student, *some[0], assistant.name)]):
                return some
        return []

    def _best(self, assistant: Network, options: list[Path]) -> Generator[list[Node], Results, Path]:
        """Train an assistant by each of these paths; returns the one that it is most accurate by."""
        yield from self._train(self._to(assistant, way) for way in options)
        accuracy = {way: self._accuracy(self._to(assistant, way)) for way in options}
        best = max(options, key=lambda way: accuracy[way])
        if len(options) > 1:
            said = {">".join(way) or "direct": a for way, a in accuracy.items()}
            self.search.journal("predecessor", learner=assistant.name, chosen=">".join(best) or "direct", accuracy=said)
        return best

    def _student(self, student: Network, options: list[Path]) -> Steps:
        """The student by its best two predecessors, but by none that is worse than the student itself."""
        direct = self._leaf(student)
        teachers = {way: self._to(self.recipe.networks[way[-1]], way[:-1]) for way in options}
        order = sorted(options, key=lambda way: -self._accuracy(teachers[way]))
        for place, way in enumerate(order):
            ahead = self._difference(teachers[way], direct)
            if ahead.high < 0:
                said = f"{_points(ahead)} against what the student is without it"
                self._prune(student, way, f"cannot win any more: {way[-1]} has {said}")
            elif place >= _TOP:
                self._prune(student, way, f"not among the best {_TOP} predecessors")
            elif self._affords([self._leaf(student, *way)]):
                yield from self._train([self._leaf(student, *way)])
            else:
                self._prune(student, way, self.stopped)

    def _train(self, nodes: Iterable[Node]) -> Steps:
        """Have these trained, and what they need; what is finished is not asked for again."""
        # By role as well: a rung of all epochs is the very leg at the end, and both must be told of.
        new = [n for n in in_order(nodes) if (n.hash, n.leg.path, n.leg.role) not in self.known]
        if new:
            done = yield new
            for leg in done.values():
                self.pace.learn(leg)
            self.done |= done
            self.known |= {(n.hash, n.leg.path, n.leg.role) for n in new}

    # -------------------------------------------------------------------------------------------- decisions
    def _better(self, left: list[Network], at: Mapping[str, Finished], share: float) -> list[Network]:
        """The better part of the students by what the choice goes by; every other one is pruned with its reason."""
        order = sorted(left, key=lambda s: -self._worth(s, at[s.name]))
        leader, kept = order[0], order[:1]
        count = max(self.rule.keep, math.ceil(len(left) / self.rule.eta))
        for place, student in enumerate(order[1:], 1):
            ahead = _difference(at[student.name], at[leader.name], self.search.groups)
            hopeless = self._cannot_win(student, leader, ahead)
            if place < count and not (hopeless and place >= self.rule.keep):
                kept.append(student)
                continue
            why = "cannot win any more" if hopeless else f"the better {count} of {len(left)} go on"
            for path in ((), *self.paths):
                self._prune(
                    student, path, f"{why}: {_points(ahead)} against {leader.name} after {share:.0%} of the epochs"
                )
        self.search.journal("rung", share=share, kept=[s.name for s in kept],
                            accuracy={s.name: at[s.name].accuracy for s in order})  # fmt: skip
        return kept

    def _worth(self, student: Network, at: Finished) -> float:
        """Accuracy points; without a budget, less what the student's milliseconds must earn."""
        if self.recipe.choice.budget is not None:
            return 100 * at.accuracy
        tenths = math.log(self.search.p50_ms[student.name]) / math.log(1.1)
        return 100 * at.accuracy - self.recipe.choice.exchange * tenths

    def _cannot_win(self, student: Network, leader: Network, ahead: Interval) -> bool:
        """Whether even the upper end of its interval loses: a faster student may be behind by the margin."""
        if self.recipe.choice.budget is None:
            return False
        faster = self.search.p50_ms[student.name] < self.search.p50_ms[leader.name]
        return 100 * ahead.high < (-self.recipe.choice.margin if faster else 0.0)

    def _affords(self, nodes: Iterable[Node]) -> bool:
        """Whether these as well, and what is owed, are within the stop rules; if not, ``stopped`` says which one."""
        new = {n.hash: n for n in in_order([*nodes, *self.owed]) if n.hash not in self.done}
        legs, rule = len(self.done) + len(new), self.rule
        seconds = sum(f.seconds for f in self.done.values()) + sum(self.pace.seconds(n) for n in new.values())
        limit = rule.share * self._exhaustive if rule.share else math.inf
        if rule.max_legs is not None and legs > rule.max_legs:
            self.stopped = f"stopped at schedule.max_legs {rule.max_legs}"
        elif rule.max_seconds is not None and seconds > rule.max_seconds:
            self.stopped = f"stopped at schedule.max_seconds {rule.max_seconds:g}"
        elif seconds > limit:
            self.stopped = f"stopped at schedule.share: beyond {rule.share:.0%} of the seconds of training all cascades"
        else:
            return True
        return False

    @property
    def _exhaustive(self) -> float:
        """Seconds of training every cascade of every student, beginnings shared, as far as can be told now."""
        if not self.every:
            leaves = (self._leaf(s, *path) for s in self.search.students for path in ((), *self.paths))
            self.every = {n.hash: n for n in in_order(leaves)}
        return sum(self.done[h].seconds if h in self.done else self.pace.seconds(n) for h, n in self.every.items())

    # -------------------------------------------------------------------------------------------- small words
    def _leaf(self, student: Network, *path: str) -> Node:
        key = (*path, student.name)
        if key not in self.leaves:  # a given teacher is hashed, a factory called, for every leaf
            self.leaves[key] = self.search.legs.cascade(student, path)
        return self.leaves[key]

    def _to(self, assistant: Network, path: Path) -> Node:
        (node,) = (n for n in in_order([self._leaf(self.search.students[0], *path, assistant.name)])
                   if n.leg.path[1:] == (*path, assistant.name))  # fmt: skip
        return node

    def _accuracy(self, node: Node) -> float:
        return self.done[node.hash].accuracy

    def _difference(self, one: Node, other: Node) -> Interval:
        return _difference(self.done[one.hash], self.done[other.hash], self.search.groups)

    def _prune(self, student: Network, path: Path, reason: str) -> None:
        whole = (self.recipe.teacher.name, *path, student.name)
        if whole not in self.search.pruned:
            self.search.pruned[whole] = reason
            self.search.journal("pruned", cascade=">".join(whole), student=student.name, reason=reason)


def rung(node: Node, share: float) -> Node:
    """The same leg with this share of its epochs, from the beginning to its own end."""
    leg = replace(node.leg, epochs=max(round(share * node.leg.epochs), 1), role="rung")
    return replace(node, leg=leg)


def _by_rank(assistants: Sequence[Network], paths: Iterable[Path]) -> list[Network]:
    """Assistants, those first that come before others on the paths; as listed, where the paths go in circles."""
    before: dict[str, set[str]] = {a.name: set() for a in assistants}
    for path in paths:
        for first, then in pairwise(path):
            before[then].add(first)
    with suppress(CycleError):
        rank = {name: i for i, name in enumerate(TopologicalSorter(before).static_order())}
        return sorted(assistants, key=lambda a: rank[a.name])
    return list(assistants)


def _difference(one: Finished, other: Finished, groups: NDArray[np.int64]) -> Interval:
    return paired_difference(one.correct.astype(float), other.correct.astype(float), groups.tolist())


def _points(ahead: Interval) -> str:
    return f"{100 * ahead.value:+.1f} points [{100 * ahead.low:+.1f}, {100 * ahead.high:+.1f}]"
