"""What a run would do before it does it: the tree of legs, what is cached, estimated time and disk."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from skd_edge.data.gather import Material, deployed_view, gather
from skd_edge.data.generate import CLASSES
from skd_edge.data.sources import is_rendered, list_clips
from skd_edge.data.store import is_built
from skd_edge.distill.losses.labels import soft_cross_entropy
from skd_edge.models.tsm import build, parameters
from skd_edge.recipe import GeneratedData, Network, Recipe
from skd_edge.run import cache_root
from skd_edge.schedule.tree import Facts, Node, grow

_DECODE_S, _RENDER_S = 0.003, 0.03  # seconds a clip and process; rough, only for clips not decoded or rendered yet


@dataclass(frozen=True)
class PlannedLeg:
    """One leg: what it is, whether it is there already, seconds, bytes."""

    hash: str | None
    name: str
    role: str
    cached: bool
    seconds: float
    megabytes: float


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
        return self.data_seconds + self.weigh_seconds + sum(leg.seconds for leg in self.legs if not leg.cached)

    def to_text(self) -> str:
        """For the screen."""
        lines = [f"{self.recipe}: {self.clips} clips, {len(self.legs)} legs"
                 f" ({sum(leg.cached for leg in self.legs)} cached)", ""]  # fmt: skip
        for leg in self.legs:
            state = "cached" if leg.cached else f"~{leg.seconds:.0f} s"
            lines.append(f"  {leg.hash or 'not named yet':<18} {leg.role:<10} {leg.name:<40} {state:>8}")
        if not self.decoded:
            lines += ["", "  The clips are not decoded yet, so legs have no names and nothing counts as cached."]
        lines += [
            "",
            "  Students over the latency budget are listed here, but will not be trained.",
            f"  estimated: {self.data_seconds:.0f} s data, {self.weigh_seconds:.0f} s export and measurement, "
            f"{self.seconds / 60:.1f} min in all; about {self.megabytes:.0f} MB of disk",
        ]
        return "\n".join(lines)


def facts_of(material: Material) -> Facts:
    """What the data contributes to the names of legs."""
    clips = material.clips
    return Facts(f"{clips.train.hash}:{clips.val.hash}", material.weak_hash, len(clips.classes))


def plan(recipe: Recipe, out: Path | None = None) -> Plan:
    """Plan a run without decoding, training or writing anything; networks are probed for a few steps.

    Args:
        recipe: what would be done.
        out: the run folder, whose finished legs count as cached.

    Raises:
        UserError: See ``list_clips``.
    """
    count, train, classes, facts = _look(recipe)
    tree = grow(recipe, facts or Facts("", "", classes), recipe.students)
    batches = max(train // recipe.training.batch, 1)
    prices = {spec: _probe(recipe, spec, classes) for spec in {n.leg.learner for n in tree}}
    legs = tuple(_planned(node, out if facts else None, facts is not None, prices, batches) for node in tree)
    files = (len(recipe.students) * (len(recipe.paths) + 1)) * len(recipe.export.precisions)
    queries = files * recipe.bench.processes * recipe.bench.queries
    weigh = 8.0 + 1.5 * files + 0.004 * queries
    pixels = count * recipe.clip.frames * recipe.clip.size**2 * 3
    answers = train * recipe.augment.views * recipe.clip.frames * 4 * _widest(recipe) * (1 + len(recipe.assistants))
    megabytes = (pixels + answers) / 1e6 + sum(leg.megabytes for leg in legs)
    return Plan(recipe.name, count, facts is not None, legs, 0.0 if facts else _DECODE_S * count + _data_seconds(recipe, count),
                weigh, megabytes)  # fmt: skip


def _look(recipe: Recipe) -> tuple[int, int, int, Facts | None]:
    """Clips, training clips, classes, and the facts that name legs where the clips are decoded already."""
    cache = cache_root()
    if isinstance(recipe.data, GeneratedData) and not is_rendered(recipe.data, recipe.seed, cache):
        data = recipe.data
        return data.train + data.val + data.test, data.train, len(CLASSES), None
    listing = list_clips(recipe.data, seed=recipe.seed, cache=cache)
    train = sum(e.split == "train" for e in listing.entries)
    if not is_built(listing, *deployed_view(recipe.clip), cache):
        return len(listing.entries), train, len(listing.classes), None
    return len(listing.entries), train, len(listing.classes), facts_of(gather(recipe, cache))


def _data_seconds(recipe: Recipe, count: int) -> float:
    return _RENDER_S * count if isinstance(recipe.data, GeneratedData) else 0.0


def _planned(
    node: Node, out: Path | None, named: bool, prices: dict[Network, tuple[float, float]], batches: int
) -> PlannedLeg:
    leg = node.leg
    seconds, megabytes = prices[leg.learner]
    homes = [cache_root() / "legs", *([out / "legs"] if out else [])]
    cached = named and any((home / node.hash / "leg.json").exists() for home in homes)
    return PlannedLeg(
        node.hash if named else None, leg.name, leg.role, cached, seconds * batches * leg.epochs, megabytes
    )


def _probe(recipe: Recipe, spec: Network, classes: int, steps: int = 3) -> tuple[float, float]:
    """Seconds of one training step of a network on this machine, and the megabytes of its weights."""
    clip = recipe.clip
    network = build(spec, classes=classes, frames=clip.frames, size=clip.size, seed=0)
    x = torch.zeros(recipe.training.batch, 3, clip.frames, clip.size, clip.size)
    targets = torch.full((len(x), classes), 1 / classes)
    times = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        logits = network(x).logits
        assert logits is not None
        soft_cross_entropy(logits, targets).backward()
        times.append(time.perf_counter() - began)
    return 1.15 * min(times[1:]), parameters(network) * 4 / 1e6  # 15 % for data, losses and the optimiser


def _widest(recipe: Recipe) -> int:
    return max(n.width << len(n.depths) for n in (recipe.teacher, *recipe.assistants))
