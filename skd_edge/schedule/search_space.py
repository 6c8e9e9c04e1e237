"""``students: auto`` and ``assistants: auto``: proposes networks from the teacher, the budget and the search space.

The accuracy of a network is unknown before training, but its latency on the target is not. A grid of networks is
benchmarked with random weights. Networks over the budget are dropped, and of the others a few are kept that differ in
latency and in architecture. Training then shows which of them is best.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from skd_bench.errors import UserError
from skd_edge.recipe.networks import MOBILE_FAMILIES
from skd_edge.recipe.schema import NetworkSpec, Recipe
from skd_edge.recipe.sections import SearchSpace

ArchitectureKind = tuple[object, ...]


def build_network_grid(recipe: Recipe) -> list[NetworkSpec]:
    """The networks to benchmark: every width of every family, plus variants that differ in one setting at a time.

    All combinations would be many times as many networks, and tracing each of them takes seconds.
    """
    space, clip, teacher = recipe.space, recipe.clip, recipe.teacher
    depths = space.depths or ((1,) * (teacher.substage_count or 4),)
    frames = _filter_divisors(space.frames or (clip.frames, clip.frames // 2), clip.frames)
    sizes = _filter_divisors(space.sizes or (clip.size,), clip.size)
    base = {"depths": depths[0], "temporal": space.temporal[0], "frames": frames[0], "size": sizes[0]}
    others = (("depths", depths[1:]), ("temporal", space.temporal[1:]), ("frames", frames[1:]), ("size", sizes[1:]))
    kinds: list[dict[str, object]] = [{"family": family, **base} for family in space.families]
    kinds += [{"family": space.families[0], **base, key: value} for key, values in others for value in values]
    for kind in kinds:
        if kind["family"] in MOBILE_FAMILIES:
            del kind["depths"]  # their depths are fixed
    kinds = [kind for i, kind in enumerate(kinds) if kind not in kinds[:i]]
    shapes = [{**kind, "width": width} for kind in kinds for width in student_widths(space, teacher)]
    found = [_build_named_network(shape, recipe) for shape in shapes]
    return [n for n in found if (n.size or clip.size) >= 2 ** len(n.depths)]


def student_widths(space: SearchSpace, teacher: NetworkSpec) -> tuple[int, ...]:
    """Widths of students, ascending: those of the space, or the teacher's and five smaller ones in steps of 0.71."""
    if space.widths is not None:
        return tuple(sorted(set(space.widths)))
    return tuple(sorted({max(round(teacher.width / math.sqrt(2) ** step / 2) * 2, 4) for step in range(6)}))


def shortlist_networks(
    networks: Mapping[str, NetworkSpec], p50_ms: Mapping[str, float], budget_ms: float | None, keep: int
) -> list[NetworkSpec]:
    """Select a few networks, spread evenly over latency, and over architectures where latencies are similar.

    Args:
        networks: the grid, by name.
        p50_ms: median milliseconds of each network with random weights, at its fastest deployment.
        budget_ms: networks slower than this are dropped; None: no limit.
        keep: number of networks to select.

    Returns:
        The selected networks, fastest first; empty if none is within the budget.
    """
    within_budget = sorted(
        (n for n in networks if budget_ms is None or p50_ms[n] <= budget_ms), key=lambda n: p50_ms[n]
    )
    if len(within_budget) <= keep:
        return [networks[n] for n in within_budget]
    # From the slowest down, because slow networks are likely to be the most accurate.
    top, low = math.log(p50_ms[within_budget[-1]]), math.log(p50_ms[within_budget[0]])
    selected: list[str] = []
    seen: Counter[ArchitectureKind] = Counter()
    for place in range(keep):
        target = top - (top - low) * place / max(keep - 1, 1)
        near = sorted((n for n in within_budget if n not in selected), key=lambda n: abs(math.log(p50_ms[n]) - target))
        max_distance = (top - low) / max(keep - 1, 1) / 2
        close = [n for n in near if abs(math.log(p50_ms[n]) - target) <= max_distance] or near[:1]
        best = min(close, key=lambda n: (seen[_architecture_kind(networks[n])], abs(math.log(p50_ms[n]) - target)))
        selected.append(best)
        seen[_architecture_kind(networks[best])] += 1
    return [networks[n] for n in within_budget if n in selected]


def propose_assistants(recipe: Recipe, students: list[NetworkSpec]) -> tuple[NetworkSpec, ...]:
    """Propose assistants with widths between those of the teacher and of the middle student, in equal ratios.

    A teacher that was made elsewhere has no width; the widest student's is used instead. There is at most one assistant
    for each factor of two between the two widths, so there may be none.

    Returns:
        The assistants, widest first.
    """
    widths = sorted(s.width for s in students if s.source is None)
    if not widths:  # nothing is between the teacher and networks of unknown size
        return ()
    middle = widths[len(widths) // 2]
    own = recipe.teacher.is_scalable
    top = recipe.teacher.width if own else widths[-1]
    count = min(recipe.space.assistants, int(math.log2(max(top / middle, 1))))
    family = recipe.teacher.family if own else "resnet"
    shape = {
        "family": family,
        "depths": (1,) * (recipe.teacher.substage_count or 4),
        "temporal": recipe.space.temporal[0],
    }
    ratio = (top / middle) ** (1 / (count + 1))
    found = [max(round(top / ratio ** (i + 1) / 2) * 2, 4) for i in range(count)]
    return tuple(
        NetworkSpec.model_validate({**shape, "width": w, "name": f"assistant-{w}"}) for w in dict.fromkeys(found)
    )


def resolve_auto(recipe: Recipe, students: Sequence[NetworkSpec]) -> Recipe:
    """The recipe with these students, and with proposed assistants if it has ``assistants: auto``.

    Args:
        recipe: returned unchanged if nothing in it is ``auto``.
        students: the selected students.

    Raises:
        UserError: The proposed networks conflict with the rest of the recipe, for example two have the same name.
    """
    if not recipe.auto:
        return recipe
    found = propose_assistants(recipe, list(students)) if "assistants" in recipe.auto else recipe.assistants
    schedule = recipe.schedule.model_copy(
        update={"search": "halving" if recipe.uses_successive_halving else "exhaustive"}
    )
    variants = (*students, *_make_training_variants(recipe.space, students))
    space = recipe.space.model_copy(update={"ways": {}})
    update = {"students": variants, "assistants": found, "auto": (), "schedule": schedule, "space": space}
    try:
        return Recipe.model_validate(recipe.model_copy(update=update).model_dump())
    except ValidationError as error:
        prefix = "Value error, "  # added by pydantic
        raise UserError(
            f"the networks proposed for `auto` do not fit the recipe: {error.errors()[0]['msg'].removeprefix(prefix)}; "
            "list the students and assistants instead"
        ) from None


def _make_training_variants(space: SearchSpace, students: Sequence[NetworkSpec]) -> list[NetworkSpec]:
    """The networks again for each training variant of ``space.ways``; grafting needs the teacher's frames and size."""
    return [
        s.model_copy(update={"name": f"{s.name}-{way}", "training": how})
        for s in students
        for way, how in space.ways.items()
        if how.combination != "graft" or not (s.frames or s.size)
    ]


def restore_proposal(recipe: Recipe, students: Sequence[str]) -> Recipe:
    """The recipe with the students of an earlier proposal, also if the budget has changed since.

    Args:
        recipe: the recipe as written, with ``auto``.
        students: names of the students that were proposed.
    """
    if not recipe.auto:
        return recipe
    nets = {n.name: n for n in (build_network_grid(recipe) if "students" in recipe.auto else recipe.students)}
    return resolve_auto(recipe, [nets[name] for name in students if name in nets])


def _build_named_network(shape: dict[str, object], recipe: Recipe) -> NetworkSpec:
    network = NetworkSpec.model_validate({**shape, "name": "x"})
    frames = None if network.frames == recipe.clip.frames else network.frames
    size = None if network.size == recipe.clip.size else network.size
    parts = [network.family, str(network.width)]
    parts += [f"d{''.join(map(str, network.depths))}"] if set(network.depths) != {1} else []
    parts += [network.temporal] if network.temporal != "conv" else []
    parts += [f"{frames}f"] if frames else []
    parts += [f"{size}px"] if size else []
    return network.model_copy(update={"name": "-".join(parts), "frames": frames, "size": size})


def _architecture_kind(network: NetworkSpec) -> ArchitectureKind:
    return network.family, network.depths, network.temporal, network.frames, network.size


def _filter_divisors(values: tuple[int, ...], total: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys(n for n in values if n and total % n == 0)) or (total,)
