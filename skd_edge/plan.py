"""What a run would do before it does it: the tree of legs, what is cached, estimated time and disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from skd_edge.data.gather import Material, deployed_view, gather
from skd_edge.data.generate import classes_of
from skd_edge.data.sources import is_rendered, list_clips
from skd_edge.data.store import is_built
from skd_edge.distill.losses.labels import soft_cross_entropy
from skd_edge.models.build import build_network
from skd_edge.models.factory import permit
from skd_edge.models.tsm import parameters
from skd_edge.recipe import GeneratedData, Network, Recipe, Teacher
from skd_edge.run import cache_root
from skd_edge.schedule.search import candidates
from skd_edge.schedule.tree import Facts, Node, grow

# Seconds, rough: a clip to decode and to render, a network to trace for ONNX. Then what substage distillation adds to a
# step, and how much slower than its share of the teacher a student may look in PyTorch before it counts as too slow.
_DECODE_S, _RENDER_S, _TRACE_S, _STAGED, _SLACK = 0.003, 0.006, 7.0, 1.3, 1.5


@dataclass(frozen=True)
class PlannedLeg:
    """One leg: what it is, whether it is there already, seconds, bytes."""

    hash: str | None
    name: str
    role: str
    cached: bool
    seconds: float
    megabytes: float
    pruned: bool = False


@dataclass(frozen=True)
class Plan:
    """The tree of legs with its price on this machine."""

    recipe: str
    clips: int
    decoded: bool
    legs: tuple[PlannedLeg, ...]
    data_seconds: float
    weigh_seconds: float
    megabytes: float

    @property
    def seconds(self) -> float:
        """Seconds that are left to do."""
        return (
            self.data_seconds
            + self.weigh_seconds
            + sum(leg.seconds for leg in self.legs if not leg.cached and not leg.pruned)
        )

    def to_text(self) -> str:
        """For the screen."""
        lines = [f"{self.recipe}: {self.clips} clips, {len(self.legs)} legs"
                 f" ({sum(leg.cached for leg in self.legs)} cached)", ""]  # fmt: skip
        for leg in self.legs:
            state = "cached" if leg.cached else "over budget?" if leg.pruned else f"~{leg.seconds:.0f} s"
            lines.append(f"  {leg.hash or 'not named yet':<18} {leg.role:<10} {leg.name:<40} {state:>12}")
        if not self.decoded:
            lines += ["", "  The clips are not decoded yet, so legs have no names and nothing counts as cached."]
        lines += [
            "",
            "  'over budget?': slower than the budget in PyTorch; the run weighs the exported file before it decides.",
            f"  estimated: {self.data_seconds:.0f} s data, {self.weigh_seconds:.0f} s export and measurement, "
            f"{self.seconds / 60:.1f} min in all; about {self.megabytes:.0f} MB of disk",
        ]
        return "\n".join(lines)


def facts_of(material: Material) -> Facts:
    """What the data contributes to the names of legs."""
    clips = material.clips
    return Facts(f"{clips.train.hash}:{clips.val.hash}", material.weak_hash, len(clips.classes), clips.classes)


def plan(recipe: Recipe, out: Path | None = None, *, allow_code: bool = False) -> Plan:
    """Plan a run without decoding, training or writing anything; networks are probed for a few steps.

    Args:
        recipe: what would be done.
        out: the run folder, whose finished legs count as cached.
        allow_code: whether the recipe's ``teacher.factory``, somebody's code, may run.

    Raises:
        UsageError: The recipe names code and ``allow_code`` is False.
        UserError: See ``list_clips`` and ``adapt``.
    """
    permit(recipe.teacher, allow_code)
    count, train, names, facts = _look(recipe)
    tree = grow(recipe, facts or Facts("", "", len(names), names), recipe.students)
    learn = {n.leg.learner.name for n in tree if n.leg.epochs}
    probes = {name: _probe(recipe, spec, names, learns=name in learn) for name, spec in recipe.networks.items()}
    slow = _over_budget(recipe, probes)
    batches = max(train // recipe.training.batch, 1)
    legs = tuple(_planned(node, out if facts else None, facts is not None, probes, batches, slow) for node in tree)
    networks, files = len(recipe.students) + 1, len(candidates(recipe)) + len(recipe.students)
    weigh = _TRACE_S * networks + files * (1.0 + 0.001 * recipe.bench.processes * recipe.bench.queries)
    pixels = count * recipe.clip.frames * recipe.clip.size**2 * 3
    asked = (recipe.teacher, *recipe.assistants)  # their answers are kept
    answers = train * recipe.augment.views * recipe.clip.frames * 4 * sum(probes[n.name].widths for n in asked)
    megabytes = (pixels + answers) / 1e6 + sum(leg.megabytes for leg in legs)
    return Plan(recipe.name, count, facts is not None, legs, _data_seconds(recipe, count, facts), weigh, megabytes)


def _over_budget(recipe: Recipe, probes: dict[str, _Probe]) -> set[str]:
    """Students that look too slow. PyTorch's milliseconds say something only beside the teacher's own."""
    if not recipe.choice.relative:
        return set()
    limit = recipe.choice.budget_ms(probes[recipe.teacher.name].clip_ms) or 0.0
    return {s.name for s in recipe.students if probes[s.name].clip_ms > limit * _SLACK}


def _look(recipe: Recipe) -> tuple[int, int, tuple[str, ...], Facts | None]:
    """Clips, training clips, classes, and the facts that name legs where the clips are decoded already."""
    cache = cache_root()
    if isinstance(recipe.data, GeneratedData) and not is_rendered(recipe.data, recipe.seed, cache):
        data = recipe.data
        return data.train + data.val + data.test, data.train, classes_of(data), None
    listing = list_clips(recipe.data, seed=recipe.seed, cache=cache)
    train = sum(e.split == "train" for e in listing.entries)
    if not is_built(listing, *deployed_view(recipe.clip), cache):
        return len(listing.entries), train, listing.classes, None
    return len(listing.entries), train, listing.classes, facts_of(gather(recipe, cache))


def _data_seconds(recipe: Recipe, count: int, facts: Facts | None) -> float:
    if facts is not None:
        return 0.0
    return count * (_DECODE_S + (_RENDER_S if isinstance(recipe.data, GeneratedData) else 0.0)) + 4.0


def _planned(
    node: Node, out: Path | None, named: bool, probes: dict[str, _Probe], batches: int, slow: set[str]
) -> PlannedLeg:
    leg, probe = node.leg, probes[node.leg.learner.name]
    homes = [cache_root() / "legs", *([out / "legs"] if out else [])]
    cached = named and any((home / node.hash / "leg.json").exists() for home in homes)
    seconds = probe.step_s * batches * leg.epochs * (_STAGED if leg.staged else 1.0)
    pruned = leg.learner.name in slow
    return PlannedLeg(node.hash if named else None, leg.name, leg.role, cached, seconds, probe.megabytes, pruned)


@dataclass(frozen=True)
class _Probe:
    step_s: float
    clip_ms: float
    megabytes: float
    widths: int


def _probe(recipe: Recipe, spec: Network, names: tuple[str, ...], *, learns: bool, steps: int = 4) -> _Probe:
    """Seconds of a training step, milliseconds of one clip in PyTorch, megabytes of weights: on this machine."""
    if isinstance(spec, Teacher) and spec.logits:
        return _Probe(0.0, 0.0, 0.0, 0)
    clip, classes = recipe.clip, len(names)
    network = build_network(spec, classes=classes, clip=clip, seed=0, names=names)
    x = torch.zeros(recipe.training.batch, 3, clip.frames, clip.size, clip.size)
    targets = torch.full((len(x), classes), 1 / classes)

    def learn() -> None:
        logits = network(x).logits
        assert logits is not None
        soft_cross_entropy(logits, targets).backward()

    step_s = _fastest(learn, steps) if learns else 0.0
    network.eval()
    with torch.no_grad():
        clip_s = _fastest(lambda: network(x[:1]), steps)
    step_s *= 1.15  # data and the optimiser
    return _Probe(step_s, 1e3 * clip_s, parameters(network) * 4 / 1e6, sum(network.widths))


def _fastest(work: Callable[[], object], times: int) -> float:
    """The quickest of some runs, in seconds, after one that does not count."""
    work()
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return min(spent)
