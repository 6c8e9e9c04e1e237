"""The tree of cascades: every leg a recipe asks for, once, teachers before learners.

Paths that begin alike share their first legs, because a leg is named by what it is and not by who asked for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from skd_bench.files import sha256_file
from skd_edge.distill.settings import Leg, Role, digest
from skd_edge.recipe import Network, Recipe


@dataclass(frozen=True)
class Facts:
    """What the data contributes to the names of legs.

    Attributes:
        data: hash of training pixels and of the validation clips.
        weak: hash of the weak labels.
        classes: number of classes.
    """

    data: str
    weak: str
    classes: int


@dataclass(frozen=True)
class Node:
    """A leg and the legs it needs first.

    Attributes:
        leg: what is trained.
        teacher: whose network teaches, or None.
        start: whose weights the learner begins from, or None.
        labels: whose network the pseudo-labels are estimated with; None for weak labels as they are.
    """

    leg: Leg
    teacher: Node | None = None
    start: Node | None = None
    labels: Node | None = None

    @property
    def hash(self) -> str:
        """The leg's hash."""
        return self.leg.hash


def grow(recipe: Recipe, facts: Facts, students: Iterable[Network]) -> list[Node]:
    """Every leg of the recipe for these students, each once, in an order in which it can be trained."""
    maker = _Maker(recipe, facts)
    teacher = maker.teacher()
    nodes: dict[tuple[str, tuple[str, ...]], Node] = {}
    for student in students:
        for path in recipe.paths:
            last, names = teacher, [recipe.teacher.name]
            for name in path:
                names.append(name)
                last = maker.distilled(recipe.networks[name], "assistant", names, last)
            _add(nodes, maker.distilled(student, "student", [*names, student.name], last))
        for control in recipe.schedule.controls:
            _add(nodes, maker.alone(student) if control == "alone" else maker.plain_kd(student))
    return list(nodes.values())


def _add(nodes: dict[tuple[str, tuple[str, ...]], Node], node: Node) -> None:
    for needed in (node.start, node.labels, node.teacher):
        if needed is not None:
            _add(nodes, needed)
    # Two networks of one shape are one leg under two names: trained once, found by either.
    nodes.setdefault((node.hash, node.leg.path), node)


class _Maker:
    def __init__(self, recipe: Recipe, facts: Facts) -> None:
        self.recipe, self.facts = recipe, facts

    def _leg(self, learner: Network, role: Role, path: list[str], **kw: object) -> Leg:
        r, big = self.recipe, role in ("scout", "teacher")
        settings: dict[str, object] = {
            "teacher": None, "start": None, "targets": self.facts.weak, "weak": False, "staged": False,
            "epochs": r.training.teacher_epochs if big else r.training.epochs,
        }  # fmt: skip
        return Leg(
            learner=learner, role=role, path=tuple(path), data=self.facts.data, classes=self.facts.classes,
            clip=r.clip, augment=r.augment, seed=r.seed, **({"training": r.training} | settings | kw),  # type: ignore[arg-type]
        )  # fmt: skip

    def _targets(self, labels: Node) -> str:
        """The hash of pseudo-labels: of the network that gave them and of how they were estimated."""
        how = self.recipe.labels.model_dump(exclude={"noise"})
        return digest({"by": labels.hash, "weak": self.facts.weak, "how": how})

    def teacher(self) -> Node:
        """The teacher: given, or a scout learns from the weak labels and goes on with the pseudo-labels it allows."""
        network, optimise = self.recipe.teacher, self.recipe.labels.optimise
        name = [network.name]
        if network.checkpoint is not None:
            return Node(self._leg(network, "teacher", name, epochs=0, given=sha256_file(network.checkpoint)))
        scout = Node(self._leg(network, "scout" if optimise else "teacher", name, weak=optimise))
        if not optimise:
            return scout
        refine = max(round(self.recipe.training.teacher_epochs * self.recipe.training.refine), 1)
        leg = self._leg(network, "teacher", name, start=scout.hash, targets=self._targets(scout), epochs=refine)
        return Node(leg, start=scout, labels=scout)

    def distilled(self, learner: Network, role: Role, path: list[str], teacher: Node) -> Node:
        """A learner distilled from ``teacher`` with the full method."""
        labels = teacher if self.recipe.labels.optimise else None
        targets = self._targets(teacher) if labels else self.facts.weak
        leg = self._leg(learner, role, path, teacher=teacher.hash, targets=targets, staged=True)
        return Node(leg, teacher=teacher, labels=labels)

    def alone(self, student: Network) -> Node:
        """Control: the student learns from the weak labels, without a teacher."""
        return Node(self._leg(student, "alone", [student.name]))

    def plain_kd(self, student: Network) -> Node:
        """Control: textbook distillation of a teacher that learned from the weak labels."""
        plain = self.recipe.training.model_copy(
            update={"losses": self.recipe.training.losses.model_copy(update={"standardise": False})}
        )
        teacher = Node(
            self._leg(self.recipe.teacher, "kd", [self.recipe.teacher.name], epochs=self.recipe.training.teacher_epochs)
        )
        leg = self._leg(student, "kd", [self.recipe.teacher.name, student.name], teacher=teacher.hash, training=plain)
        return Node(leg, teacher=teacher)
