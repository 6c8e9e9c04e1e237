"""What a run would do before it does it: the tree of legs, what is cached, estimated time and disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from skd_bench.benchmark.latency import ENERGY_S
from skd_edge.data.sources.registry import is_rendered, list_clips
from skd_edge.data.sources.synthetic import classes_of
from skd_edge.data.store.clip_store import is_built
from skd_edge.distill.step_profiler import Pace, probe
from skd_edge.execution.executors import use_threads
from skd_edge.execution.job_graph import Facts, Node, grow
from skd_edge.labels.dataset import Material, deployed_view, gather
from skd_edge.models.builder import Built, build_network
from skd_edge.models.external.factory import permit
from skd_edge.models.tsm import parameters
from skd_edge.recipe.data import GeneratedData
from skd_edge.recipe.schema import Network, Recipe, Teacher
from skd_edge.run_folder import cache_root
from skd_edge.schedule.candidates import candidates, forms
from skd_edge.schedule.search_space import grid, settled, shortlist

# Seconds, from the journals of quickstart runs on two cores: a clip to decode and to render, a network to trace for
# ONNX (two at a time), a file to write. Then how much slower than its share of the teacher a student may look in
# PyTorch before it counts as too slow, the views that an opinion is averaged over, and what a file's query takes in ms.
_DECODE_S, _RENDER_S, _TRACE_S, _FILE_S, _SLACK, _VOICES, _QUERY_MS = 0.002, 0.003, 3.0, 0.3, 1.5, 4, 1.0


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
    halves: bool = False
    share: float = 0.0

    @property
    def training_seconds(self) -> float:
        """Seconds of training that are left to do; where the search halves, no more than its share of all legs."""
        legs = [leg for leg in self.legs if not leg.pruned]
        left = sum(leg.seconds for leg in legs if not leg.cached)
        return min(left, self.share * sum(leg.seconds for leg in legs)) if self.halves and self.share else left

    @property
    def seconds(self) -> float:
        """Seconds that are left to do."""
        return self.data_seconds + self.weigh_seconds + self.training_seconds

    def to_text(self, hourly: float | None = None) -> str:
        """For the screen.

        Args:
            hourly: what an hour of this machine costs, in whatever money: the costs of legs are told too.
        """

        def cost(seconds: float) -> str:
            return "" if hourly is None else f"{hourly * seconds / 3600:>10.3f}"

        lines = [f"{self.recipe}: {self.clips} clips, {len(self.legs)} legs"
                 f" ({sum(leg.cached for leg in self.legs)} cached)", ""]  # fmt: skip
        for leg in self.legs:
            state = "cached" if leg.cached else "over budget?" if leg.pruned else f"~{leg.seconds:.0f} s"
            costs = "" if leg.cached or leg.pruned else cost(leg.seconds)
            lines.append(f"  {leg.hash or 'not named yet':<18} {leg.role:<10} {leg.name:<40} {state:>12}"
                         f" {leg.megabytes:>7.2f} MB{costs}")  # fmt: skip
        if not self.decoded:
            lines += ["", "  The clips are not decoded yet, so legs have no names and nothing counts as cached."]
        if self.halves:
            share = f"at most {self.share:.0%} of their seconds (schedule.share)"
            most = share if self.share else "the time is that of all"
            lines += ["", f"  Successive halving trains a part of these, and rungs: {most}."]
        lines += [
            "",
            "  'over budget?': slower than the budget in PyTorch; the run weighs the exported file before it decides.",
            f"  estimated: {self.data_seconds:.0f} s data, {self.weigh_seconds:.0f} s export and measurement, "
            f"{self.seconds / 60:.1f} min in all; about {self.megabytes:.0f} MB of disk",
        ]
        if hourly is not None:
            lines.append(f"  cost:{cost(self.seconds)} at {hourly:g} an hour")
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
    use_threads(None)
    count, splits, names, facts = _look(recipe)
    guessed, recipe = recipe, _proposed(recipe, names)
    tree = grow(recipe, facts or Facts("", "", len(names), names), recipe.students)
    paces = _paces(recipe, tree, names)
    named = {n.leg.learner.name: paces[_kind(n)] for n in reversed(tree)}
    slow = _over_budget(recipe, named)
    built = {name: _built(recipe, spec, names) for name, spec in recipe.networks.items() if not _is_told(spec)}

    def weight(node: Node) -> float:
        network = built.get(node.leg.learner.name)
        return parameters(network) * 4 / 1e6 if network else 0.0

    asked: set[tuple[str, int]] = set()
    legs = []
    for node in tree:
        seconds = _leg_seconds(node, paces, named, splits, asked)
        cached = facts is not None and _is_finished(node, out)
        legs.append(PlannedLeg(node.hash if facts else None, node.leg.name, node.leg.role, cached, seconds,
                               weight(node), node.leg.learner.name in slow))  # fmt: skip
    pixels = count * recipe.clip.frames * recipe.clip.size**2 * 3
    keep = (built[n.name] for n in (recipe.teacher, *recipe.assistants) if n.name in built)
    widths = sum(sum(network.widths) for network in keep)
    answers = splits["train"] * recipe.augment.views * recipe.clip.frames * 4 * widths  # they are kept
    megabytes = (pixels + answers) / 1e6 + sum(leg.megabytes for leg in legs)
    weigh = _weigh_seconds(recipe) + (_grid_seconds(guessed) if "students" in guessed.auto else 0.0)
    return Plan(recipe.name, count, facts is not None, tuple(legs), _data_seconds(recipe, count, facts), weigh,
                megabytes, recipe.halves, recipe.schedule.share)  # fmt: skip


def _proposed(recipe: Recipe, names: tuple[str, ...]) -> Recipe:
    """Students and assistants where the recipe says auto, by PyTorch's milliseconds instead of the device's."""
    students = recipe.students
    if "students" in recipe.auto:
        nets = {n.name: n for n in grid(recipe)}
        x = torch.zeros(1, 3, recipe.clip.frames, recipe.clip.size, recipe.clip.size)
        with torch.no_grad():
            others = {} if _is_told(recipe.teacher) else {recipe.teacher.name: recipe.teacher}
            times = {name: 1e3 * _fastest(partial(_built(recipe, n, names).eval(), x), 3)
                     for name, n in {**nets, **others}.items()}  # fmt: skip
        limit = recipe.choice.budget_ms(times.pop(recipe.teacher.name, 0.0)) if recipe.choice.relative else None
        students = tuple(shortlist(nets, times, limit, recipe.space.keep)) or tuple(nets.values())[:1]
    return settled(recipe, students)


def _built(recipe: Recipe, spec: Network, names: tuple[str, ...]) -> Built:
    return build_network(spec, classes=len(names), clip=recipe.clip, seed=0, names=names)


def _is_told(spec: Network) -> bool:
    """Whether it is a file of answers and no network."""
    return isinstance(spec, Teacher) and spec.logits is not None


def _kind(node: Node) -> tuple[object, ...]:
    """Legs of one kind take equally long a step."""
    leg = node.leg
    return str(leg.learner.outline), leg.staged, leg.weak, leg.training, node.teacher and str(
        node.teacher.leg.learner.outline), bool(leg.epochs)  # fmt: skip


def _paces(recipe: Recipe, tree: list[Node], names: tuple[str, ...]) -> dict[tuple[object, ...], Pace]:
    """A probe of each kind of leg."""
    paces: dict[tuple[object, ...], Pace] = {}
    for node in tree:
        if _is_told(node.leg.learner):
            paces[_kind(node)] = Pace(0.0, 0.0)
        if _kind(node) not in paces:
            by = node.teacher.leg.learner if node.teacher else None
            teacher = _built(recipe, by, names) if by and not _is_told(by) else None
            paces[_kind(node)] = probe(node.leg, teacher, deployed_view(recipe.clip)[1])
    return paces


def _leg_seconds(
    node: Node,
    paces: dict[tuple[object, ...], Pace],
    named: dict[str, Pace],
    splits: dict[str, int],
    asked: set[tuple[str, int]],
) -> float:
    """Steps, validation, and what a teacher or labels are asked that nobody asked before (``asked``, by view)."""
    leg, pace = node.leg, paces[_kind(node)]
    seconds = pace.step * max(splits["train"] // leg.training.batch, 1) * leg.epochs
    seconds += pace.clip * splits["val"] * (leg.epochs - leg.epochs // 2)
    views = {(n.hash, v) for n in (node.teacher, *node.others) if n for v in range(min(leg.augment.views, leg.epochs))}
    if node.labels is not None and (node.labels.hash, -1) not in asked:
        by = node.folds or (node.labels,)
        views |= {(node.labels.hash, -1)} | (
            {(n.hash, v) for n in by for v in range(_VOICES)} if not leg.weak else set()
        )
    clips = {n.hash: named[n.leg.learner.name].clip * splits["train"] for n in node.needs}
    seconds += sum(clips.get(by, 0.0) for by, view in views - asked)
    asked |= views
    return seconds


def _weigh_seconds(recipe: Recipe) -> float:
    """Tracing once, then files written and measured twice: with random weights, and trained."""
    files = (len(recipe.students) + len(recipe.students) * len(recipe.paths)) * len(recipe.export.precisions) + 2
    measured = (len(recipe.students) * len(forms(recipe)) + 1) + (len(candidates(recipe)) + 1)
    return _TRACE_S * (len(recipe.students) + 1) + files * _FILE_S + measured * _weighed_s(recipe)


def _grid_seconds(recipe: Recipe) -> float:
    each = len(recipe.export.precisions) * _FILE_S + len(forms(recipe)) * _weighed_s(recipe)
    return len(grid(recipe)) * (_TRACE_S + each)


def _weighed_s(recipe: Recipe) -> float:
    """Seconds that one file on one runtime is measured for."""
    queries = recipe.bench.processes * recipe.bench.queries * _QUERY_MS / 1e3
    return queries + (ENERGY_S if recipe.choice.max_joules else 0.0)


def _over_budget(recipe: Recipe, paces: dict[str, Pace]) -> set[str]:
    """Students that look too slow. PyTorch's milliseconds say something only beside the teacher's own."""
    if not recipe.choice.relative:
        return set()
    limit = recipe.choice.budget_ms(paces[recipe.teacher.name].clip) or 0.0
    return {s.name for s in recipe.students if paces[s.name].clip > limit * _SLACK}


def _look(recipe: Recipe) -> tuple[int, dict[str, int], tuple[str, ...], Facts | None]:
    """Clips, clips by split, classes, and the facts that name legs where the clips are decoded already."""
    cache = cache_root()
    if isinstance(recipe.data, GeneratedData) and not is_rendered(recipe.data, recipe.seed, cache):
        data = recipe.data
        splits = {"train": data.train, "val": data.val, "test": data.test}
        return sum(splits.values()), splits, classes_of(data), None
    listing = list_clips(recipe.data, seed=recipe.seed, cache=cache, elsewhere=recipe.labels.elsewhere)
    splits = {split: sum(e.split == split for e in listing.entries) for split in ("train", "val", "test")}
    if not is_built(listing, *deployed_view(recipe.clip), cache, recipe.clip.decoder):
        return len(listing.entries), splits, listing.classes, None
    return len(listing.entries), splits, listing.classes, facts_of(gather(recipe, cache))


def _data_seconds(recipe: Recipe, count: int, facts: Facts | None) -> float:
    if facts is not None:
        return 0.0
    return count * (_DECODE_S + (_RENDER_S if isinstance(recipe.data, GeneratedData) else 0.0)) + 4.0


def _is_finished(node: Node, out: Path | None) -> bool:
    homes = [cache_root() / "legs", *([out / "legs"] if out else [])]
    return any((home / node.hash / "leg.json").exists() for home in homes)


def _fastest(work: Callable[[], object], times: int) -> float:
    """The quickest of some runs, in seconds, after one that does not count."""
    work()
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return min(spent)
