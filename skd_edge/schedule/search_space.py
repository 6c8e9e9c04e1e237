"""``students: auto``: which networks could be worth training, from the teacher, the target and nothing else.

Nobody knows the accuracy of an untrained network, but its milliseconds on the target are known before training. So a
grid of networks is weighed with random weights; those over the budget are dropped, and of the others a handful is kept
that lies spread along the milliseconds and over the kinds of network. Training then tells them apart.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from skd_bench.errors import UserError
from skd_edge.recipe.schema import NetworkSpec, Recipe
from skd_edge.recipe.sections import SearchSpace

ArchitectureKind = tuple[object, ...]


def build_network_grid(recipe: Recipe) -> list[NetworkSpec]:
    """The networks that are weighed: every width of every family, and one thing at a time changed from the first kind.

    Everything changed together would be many times as many, each of which takes seconds to trace.
    """
    space, clip, teacher = recipe.space, recipe.clip, recipe.teacher
    depths = space.depths or ((1,) * (teacher.substage_count or 4),)
    frames = _filter_divisors(space.frames or (clip.frames, clip.frames // 2), clip.frames)
    sizes = _filter_divisors(space.sizes or (clip.size,), clip.size)
    base = {"depths": depths[0], "temporal": space.temporal[0], "frames": frames[0], "size": sizes[0]}
    others = (("depths", depths[1:]), ("temporal", space.temporal[1:]), ("frames", frames[1:]), ("size", sizes[1:]))
    kinds: list[dict[str, object]] = [{"family": family, **base} for family in space.families]
    kinds += [{"family": space.families[0], **base, key: value} for key, values in others for value in values]
    shapes = [{**kind, "width": width} for kind in kinds for width in student_widths(space, teacher)]
    found = [_build_named_network(shape, recipe) for shape in shapes]
    return [n for n in found if (n.size or clip.size) >= 2 ** len(n.depths)]


def student_widths(space: SearchSpace, teacher: NetworkSpec) -> tuple[int, ...]:
    """Widths of students: as the space lists them, else the teacher's and five smaller ones, each 0.71 of the next."""
    if space.widths is not None:
        return tuple(sorted(set(space.widths)))
    return tuple(sorted({max(round(teacher.width / math.sqrt(2) ** step / 2) * 2, 4) for step in range(6)}))


def shortlist_networks(
    networks: Mapping[str, NetworkSpec], p50_ms: Mapping[str, float], budget_ms: float | None, keep: int
) -> list[NetworkSpec]:
    """The handful: spread along the milliseconds, and over kinds where several lie near one another.

    Args:
        networks: the grid by name.
        p50_ms: of each, with random weights, at its fastest precision.
        budget_ms: what none may pass; None: no limit.
        keep: how many.

    Returns:
        Fastest first; empty where none is within the budget.
    """
    within_budget = sorted(
        (n for n in networks if budget_ms is None or p50_ms[n] <= budget_ms), key=lambda n: p50_ms[n]
    )
    if len(within_budget) <= keep:
        return [networks[n] for n in within_budget]
    # From the slowest down: near the budget is where the most accurate one is likely to be.
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
    """Networks of the first family between the teacher's width and the middle student's, in equal ratios, widest first.

    Without a width of the teacher's (made elsewhere), the widest student stands for it. None where the gap is less
    than a factor of two for each.
    """
    middle = sorted(s.width for s in students)[len(students) // 2]
    own = recipe.teacher.is_scalable
    top = recipe.teacher.width if own else max(s.width for s in students)
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
    """The recipe with these students, assistants where it says auto, and nothing left to propose.

    Raises:
        UserError: What is proposed does not go with the rest of the recipe: two networks of one name, for example.
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
        raise UserError(
            f"what auto proposes is no recipe: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
        ) from None


def _make_training_variants(space: SearchSpace, students: Sequence[NetworkSpec]) -> list[NetworkSpec]:
    """The same networks, distilled in each of the space's ways; without a graft where frames or size are its own."""
    return [
        s.model_copy(update={"name": f"{s.name}-{way}", "training": how})
        for s in students
        for way, how in space.ways.items()
        if how.combination != "graft" or not (s.frames or s.size)
    ]


def restore_proposal(recipe: Recipe, students: Sequence[str]) -> Recipe:
    """The recipe as an earlier proposal settled it: with the students of these names, whatever the budget is now."""
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
