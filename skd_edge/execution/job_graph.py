"""The tree of cascades: every leg a recipe asks for, once, teachers before learners.

Paths that begin alike share their first legs, because a leg is named by what it is and not by who asked for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from skd_bench.files import sha256_file
from skd_edge.distill.job import Leg, Role, digest
from skd_edge.models.efficientnet import imagenet_hash
from skd_edge.models.external.factory import source_of, weights_of
from skd_edge.models.external.loader import identity
from skd_edge.recipe.networks import Member
from skd_edge.recipe.schema import Network, Recipe, Teacher, Training


@dataclass(frozen=True)
class Facts:
    """What the data contributes to the names of legs.

    Attributes:
        data: hash of training pixels and of the validation clips.
        weak: hash of the weak labels.
        classes: number of classes.
        names: their names, for a teacher with a class list of its own.
    """

    data: str
    weak: str
    classes: int
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Node:
    """A leg and the legs it needs first.

    Attributes:
        leg: what is trained.
        teacher: whose network teaches, or None.
        start: whose weights the learner begins from, or None.
        labels: whose network the pseudo-labels are estimated with; None for weak labels as they are.
        others: whose networks teach as well where guidance is dense: those further up the cascade.
        folds: whose networks, each on the clips that it never saw, give the opinions behind ``labels``.
    """

    leg: Leg
    teacher: Node | None = None
    start: Node | None = None
    labels: Node | None = None
    others: tuple[Node, ...] = ()
    folds: tuple[Node, ...] = ()

    @property
    def needs(self) -> tuple[Node, ...]:
        """What must be trained first."""
        first = (self.start, *self.folds, self.labels, *self.others, self.teacher)
        return tuple(node for node in first if node is not None)

    @property
    def hash(self) -> str:
        """The leg's hash."""
        return self.leg.hash


def grow(recipe: Recipe, facts: Facts, students: Iterable[Network]) -> list[Node]:
    """Every leg of the recipe for these students, each once, in an order in which it can be trained."""
    return every_leg(Legs(recipe, facts), students)


def every_leg(legs: Legs, students: Iterable[Network]) -> list[Node]:
    """See ``grow``."""
    nodes: dict[tuple[str, tuple[str, ...]], Node] = {}
    for student in students:
        for path in legs.recipe.paths:
            _add(nodes, legs.cascade(student, path))
        for control in legs.recipe.schedule.controls:
            _add(nodes, legs.alone(student) if control == "alone" else legs.plain_kd(student))
    return list(nodes.values())


def in_order(wanted: Iterable[Node]) -> list[Node]:
    """These nodes and all that they need, each once, teachers before learners."""
    nodes: dict[tuple[str, tuple[str, ...]], Node] = {}
    for node in wanted:
        _add(nodes, node)
    return list(nodes.values())


def _add(nodes: dict[tuple[str, tuple[str, ...]], Node], node: Node) -> None:
    # Two networks of one shape are one leg under two names: trained once, found by either.
    key = (node.hash, node.leg.path)
    if key in nodes:  # and so are all that it needs: without this, shared needs would be walked again and again
        return
    for needed in node.needs:
        _add(nodes, needed)
    nodes[key] = node


class Legs:
    """Makes the legs of a recipe.

    Args:
        recipe: networks, training, label settings.
        facts: what the data contributes.

    Attributes:
        halved: names of networks whose batches did not fit into memory: they go through in twice as many parts.
    """

    def __init__(self, recipe: Recipe, facts: Facts) -> None:
        self.recipe, self.facts = recipe, facts
        self.halved: set[str] = set()

    def teacher(self) -> Node:
        """The teacher: given, or a scout learns from the weak labels and goes on with the pseudo-labels it allows."""
        network, optimise = self.recipe.teacher, self.recipe.labels.optimise
        name = [network.name]
        if not network.learns:
            by = "by its factory" if network.factory else f"by {network.source}"
            given = sha256_file(network.checkpoint) if network.checkpoint else by
            return Node(self._leg(network, "teacher", name, epochs=0, given=given))
        scout = Node(self._leg(network, "scout" if optimise else "teacher", name, weak=optimise))
        return self._refined(scout, self._folds(network)) if optimise else scout

    def _refined(self, scout: Node, folds: tuple[Node, ...]) -> Node:
        """The scout goes on, round by round, with labels that the round before estimated."""
        training, network, last = self.recipe.training, self.recipe.teacher, scout
        epochs = max(round(training.teacher_epochs * training.refine), 1)
        for left in reversed(range(training.rounds)):
            said = folds if last is scout else ()
            name = f"{network.name}, round {training.rounds - left}" if left else network.name
            leg = self._leg(network, "scout" if left else "teacher", [name], start=last.hash,
                            targets=self.targets(last, said), epochs=epochs)  # fmt: skip
            last = Node(leg, start=last, labels=last, folds=said)
        return last

    def cascade(self, student: Network, path: Iterable[str]) -> Node:
        """The student at the end of a path through these assistants, each leg distilled with the full method."""
        last, above, names = self.teacher(), tuple[Node, ...](), [self.recipe.teacher.name]
        for name in path:
            names.append(name)
            node = self.distilled(self.recipe.networks[name], "assistant", names, last, above)
            last, above = node, (*above, last)
        return self.distilled(student, "student", [*names, student.name], last, above)

    def distilled(
        self, learner: Network, role: Role, path: list[str], teacher: Node, above: tuple[Node, ...] = ()
    ) -> Node:
        """A learner distilled from ``teacher`` with the full method; ``above`` also teach where guidance is dense."""
        labels = teacher if self.recipe.labels.optimise else None
        targets = self.targets(teacher) if labels else self.facts.weak
        training = self.recipe.training_of(learner)
        others, staged = above if training.dense else (), teacher.leg.learner.substage_count > 0
        leg = self._leg(learner, role, path, teacher=teacher.hash, targets=targets, staged=staged,
                        others=tuple(o.hash for o in others), training=training)  # fmt: skip
        return Node(leg, teacher=teacher, labels=labels, others=others)

    def alone(self, student: Network) -> Node:
        """Control: the student learns from the weak labels, without a teacher."""
        return Node(self._leg(student, "alone", [student.name]))

    def plain_teacher(self) -> Node:
        """The controls' teacher: given, or cross-entropy on the weak labels for as many epochs as the scout has."""
        if (given := self.teacher()).leg.given is not None:
            return given
        network, epochs = self.recipe.teacher, self.recipe.training.teacher_epochs
        return Node(self._leg(network, "kd", [network.name], epochs=epochs))

    def plain_kd(self, student: Network, path: Iterable[str] = (), **losses: object) -> Node:
        """Control: textbook distillation of a teacher that learned from the weak labels, or of the one that is given.

        Args:
            student: who learns.
            path: assistants on the way (TAKD, 1902.03393).
            losses: other settings of ``training.losses`` than plain KD's.
        """
        changed = self.recipe.training.losses.model_copy(update={"logits_kind": "kd"} | losses)
        plain = self.recipe.training.model_copy(update={"losses": changed})
        last, names = self.plain_teacher(), [self.recipe.teacher.name]
        for network in (*(self.recipe.networks[name] for name in path), student):
            names.append(network.name)
            last = Node(self._leg(network, "kd", names, teacher=last.hash, training=plain), teacher=last)
        return last

    def targets(self, labels: Node, folds: tuple[Node, ...] = ()) -> str:
        """The hash of pseudo-labels: of the networks that gave them and of how they were estimated."""
        how = self.recipe.labels.optimiser
        by = [labels.hash, *(f.hash for f in folds)]
        return digest({"by": by, "weak": self.facts.weak, "how": how})

    # -------------------------------------------------------------------------------------------- one leg
    def _leg(self, learner: Network, role: Role, path: list[str], **kw: object) -> Leg:
        r, big = self.recipe, role in ("scout", "teacher")
        settings: dict[str, object] = {
            "teacher": None, "start": None, "targets": self.facts.weak, "weak": False, "staged": False,
            "epochs": r.training.teacher_epochs if big else r.training.epochs, "code": _code(learner, r.seed),
            "names": self._names(learner),
        }  # fmt: skip
        training = cast(Training, kw.pop("training", r.training))
        if learner.name in self.halved:
            training = training.model_copy(update={"accumulate": 2 * training.accumulate})
        return Leg(
            learner=learner, role=role, path=tuple(path), data=self.facts.data, classes=self.facts.classes,
            clip=r.clip, augment=r.augment, seed=r.seed, training=training, **(settings | kw),  # type: ignore[arg-type]
        )  # fmt: skip

    def _names(self, learner: Network) -> tuple[str, ...]:
        """The data's classes where they decide which of the learner's logits are read."""
        if not isinstance(learner, Teacher) or learner.learns:
            return ()
        return self.facts.names if any(m.classes or m.source not in (None, "factory") for m in learner.members) else ()

    def _folds(self, network: Network) -> tuple[Node, ...]:
        """Networks that each leave out another part of the clips, where opinions are to be out-of-fold."""
        parts = self.recipe.labels.folds
        return tuple(
            Node(self._leg(network, "scout", [f"{network.name}, part {i + 1} of {parts} left out"], weak=True,
                           fold=(i, parts)))
            for i in range(parts)
        )  # fmt: skip


def _code(network: Network, seed: int) -> str | None:
    """What a network is beyond the recipe's words: a factory's own file and weights, or what given files hold."""
    if isinstance(network, Teacher) and network.ensemble:
        files = [sha256_file(m.checkpoint) if m.checkpoint else None for m in network.ensemble]
        return digest([files, [_code(m, seed) for m in network.ensemble]])
    if isinstance(network, Member) and network.factory:
        source = source_of(network)
        return digest([sha256_file(source) if source else None, weights_of(network, seed)])
    if network.start == "imagenet":
        return imagenet_hash(network.family)
    return identity(network) if isinstance(network, Member) else None
