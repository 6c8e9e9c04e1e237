"""Before anything is trained: every candidate with random weights on the scale, and students that are proposed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from skd_bench.benchmark.latency import Latency, Target
from skd_bench.errors import UserError
from skd_edge.evaluation.evaluator import Scale
from skd_edge.models.builder import Built
from skd_edge.models.tsm import parameters
from skd_edge.pipeline.console import Screen
from skd_edge.recipe.schema import Network, Recipe
from skd_edge.run_folder import Run
from skd_edge.schedule import search_space as space
from skd_edge.schedule.candidates import TEACHER, fastest, forms


def propose(recipe: Recipe, run: Run, scale: Scale, screen: Screen) -> Recipe:
    """The recipe with students and assistants where it says ``auto``; another is returned as it is.

    Raises:
        UserError: No network of the space is within the budget; names the fastest and its milliseconds.
    """
    if not recipe.auto:
        return recipe
    students = _students(recipe, run, scale, screen) if "students" in recipe.auto else recipe.students
    whole = space.settled(recipe, students)
    run.journal("proposed", students=[s.name for s in whole.students], assistants=[a.name for a in whole.assistants])
    screen.say("proposed: " + ", ".join(n.name for n in (*whole.assistants, *whole.students)))
    return whole


def _students(recipe: Recipe, run: Run, scale: Scale, screen: Screen) -> list[Network]:
    grid = space.grid(recipe)
    wide = recipe.model_copy(update={"students": tuple(grid), "auto": ()})
    screen.say(f"auto: {len(grid)} networks are weighed with random weights, and {recipe.space.keep} kept")
    random = weigh_random(wide, run, scale, screen)
    times = fastest(wide, {n: p50(x) for n, x in random.items()})
    budget_ms = recipe.choice.budget_ms(p50(random[TEACHER]) if TEACHER in random else math.nan)
    if not times:
        raise UserError(f"no network of the space can run: {next(iter(scale.cannot.values()))}")
    kept = space.shortlist({n.name: n for n in grid if n.name in times}, times, budget_ms, recipe.space.keep)
    for name, ms in sorted(times.items(), key=lambda item: item[1]):
        why = (
            "kept"
            if name in {n.name for n in kept}
            else "over the budget"
            if ms > (budget_ms or math.inf)
            else "others lie near"
        )
        run.journal("proposal", student=name, p50_ms=ms, reason=why)
    if not kept:
        name = min(times, key=lambda n: times[n])
        raise UserError(
            f"no network of the space is within the budget of {budget_ms:.2f} ms; the fastest, {name}, takes "
            f"{times[name]:.2f} ms on the device: raise choice.budget, or list smaller space.widths"
        )
    return kept


def weigh_random(recipe: Recipe, run: Run, scale: Scale, screen: Screen) -> dict[str, Latency]:
    """Latency of every student in every form, and of the teacher, before anything is trained."""
    with screen.stage("weighing candidates with random weights") as bar:
        targets: list[Target] = []
        shapes = set(recipe.shapes.values())
        students = tuple(s for s in recipe.students if s.name in shapes)  # equal networks are weighed once
        asked = students if recipe.teacher.logits else (recipe.teacher, *students)
        networks = [(n, scale.random_weights(n)) for n in asked]
        scale.trace_ahead([built for _, built in networks])
        for number, (network, built) in enumerate(networks):
            bar.count(number, len(networks))
            name = f"random/{network.name}"
            if network is recipe.teacher:
                made = export_teacher(recipe, run, scale, built, name, screen)
            else:
                made = scale.export_random(built, name, recipe.export.precisions)
            for precision, path in made.items():
                run.journal(
                    "artefact", name=network.name, precision=precision, weights="random", bytes=path.stat().st_size
                )
            if network is recipe.teacher:
                targets += [Target(TEACHER, path, recipe.bench.runtime[0]) for path in made.values()]
            else:
                targets += _runnable(recipe, network, made, run, scale, screen)
        latency = scale.latency(targets, bar.count)
    scale.untrained = {t.name: Path(t.path).stat().st_size / 1e6 for t in targets}
    for name, one in latency.items():
        run.journal("measured", name=name, weights="random", p50_ms=p50(one))
    return latency


def _runnable(
    recipe: Recipe, network: Network, made: Mapping[str, Path], run: Run, scale: Scale, screen: Screen
) -> list[Target]:
    """A student's files on each runtime that can run them; the others are noted with their reason."""
    targets = []
    for form in forms(recipe):
        name = f"{network.name} {form.name}"
        if why := scale.refusal(made[form.precision], form.runtime):
            scale.cannot[name] = why
            run.journal("cannot_run", name=name, reason=why)
            screen.say(f"{name}: {why}")
        else:
            targets.append(Target(name, made[form.precision], form.runtime))
    return targets


def export_teacher(
    recipe: Recipe, run: Run, scale: Scale, network: Built, name: str, screen: Screen
) -> dict[str, Path]:
    """The teacher's file, to compare. One made elsewhere may go without, unless the budget is a multiple of it."""
    try:
        return scale.export_random(network, name, ("fp32",))
    except UserError as error:
        if recipe.teacher.source is None:
            raise
        if recipe.choice.relative:
            raise UserError(
                f"choice.budget {recipe.choice.budget!r} needs the teacher's milliseconds, and its file cannot be made "
                f"({error}); give the budget in milliseconds ('8 ms')"
            ) from error
        run.journal("teacher_not_exported", reason=str(error))
        screen.say(f"the teacher is not measured: {error}")
        return {}


def tell_budget(
    recipe: Recipe,
    run: Run,
    screen: Screen,
    random: dict[str, Latency],
    budget_ms: float | None,
    dropped: dict[str, str],
) -> None:
    """Say what each candidate costs and which are out."""
    for name, one in sorted(random.items(), key=lambda item: p50(item[1])):
        screen.say(f"{name}: {p50(one):.2f} ms (p50, random weights)")
    if budget_ms is not None:
        screen.say(f"budget: {budget_ms:.2f} ms")
    for student, reason in dropped.items():
        run.journal("pruned", student=student, reason=reason)
        screen.say(f"{student}: {reason}")
    students = {n: x for n, x in random.items() if n != TEACHER}
    if budget_ms is not None and students and all(p50(x) > budget_ms for x in students.values()):
        name, best = min(((n, p50(x)) for n, x in students.items()), key=lambda item: item[1])
        raise UserError(
            f"no candidate is within the budget of {budget_ms:.2f} ms; the fastest, {name}, takes {best:.2f} ms on "
            "the device: raise choice.budget, or add a smaller student"
        )
    if len(dropped) == len(recipe.students):
        raise UserError("no student may be trained: " + "; ".join(f"{n}: {why}" for n, why in dropped.items()))


def tell_larger(recipe: Recipe, students: Sequence[Network], run: Run, scale: Scale, screen: Screen) -> None:
    """Warn of every leg whose learner has more weights than its teacher: it can be done, and is seldom meant."""
    told = {recipe.teacher.name} if recipe.teacher.logits else set()  # answers in a file have no weights
    named = {name: network for name, network in recipe.networks.items() if name not in told}
    size = {name: parameters(scale.random_weights(network)) for name, network in named.items()}
    paths = ((recipe.teacher.name, *path, s.name) for s in students for path in recipe.paths)
    pairs = {(a, b) for path in paths for a, b in pairwise(path) if a not in told and size[b] > size[a]}
    for teacher, learner in sorted(pairs):
        screen.say(f"warning: {learner} ({size[learner]:,} weights) is larger than {teacher} ({size[teacher]:,}), "
                   "which teaches it; put the larger one first, or leave it out of schedule.paths")  # fmt: skip
        run.journal("larger", learner=learner, teacher=teacher, weights=[size[learner], size[teacher]])


def p50(latency: Latency) -> float:
    """Median milliseconds.

    Raises:
        UserError: It was not measured.
    """
    if latency.p50 is None:
        raise UserError(f"{latency.name} was not measured: no query came back; raise bench.queries")
    return latency.p50.value
