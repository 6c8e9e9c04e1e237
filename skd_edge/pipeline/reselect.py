"""Second thoughts: choose again among what a run measured, by another rule; nothing is trained or measured.

The rule may be changed as often as one likes, because it looks at the validation clips only. ``confirm`` makes the new
choice the run's: its file is scored on the test clips, which counts as another look where it is another file.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from skd_bench.errors import UsageError, UserError
from skd_bench.files import write_json
from skd_edge.data.sources.registry import listed_classes
from skd_edge.evaluation.devices import device_of
from skd_edge.evaluation.evaluator import Scale
from skd_edge.execution.job_graph import Legs, every_leg
from skd_edge.execution.local_executor import LocalEngine
from skd_edge.labels.dataset import deployed_view
from skd_edge.models.external.factory import permit
from skd_edge.pipeline.compress import check_measurable, choose, gather_clips, halved_before, weigh_trained
from skd_edge.pipeline.console import Screen
from skd_edge.pipeline.plan import facts_of
from skd_edge.pipeline.stages.benchmark_untrained import p50, weigh_random
from skd_edge.pipeline.stages.bundle import Outcome, write_result
from skd_edge.recipe.loader import load_recipe, resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.report.html import render_run
from skd_edge.run_folder import MARK, Run, read_journal
from skd_edge.schedule.candidates import TEACHER
from skd_edge.schedule.search_space import named_before
from skd_edge.schedule.selection import Decision


def choose_again(
    folder: Path,
    sets: Sequence[str] = (),
    *,
    confirm: bool = False,
    allow_code: bool = False,
    console: Console | None = None,
) -> Decision:
    """Choose among the candidates that a finished run trained and measured.

    Args:
        folder: the run folder.
        sets: changes of ``choice``, each ``choice.key=value``.
        confirm: make it the run's choice: recipe, report and bundle are written anew, and the test clips looked at.
        allow_code: whether the teacher's factory may run.
        console: where the candidates are shown.

    Raises:
        UsageError: It is no run, or something other than ``choice`` is changed.
        UserError: The run trained no student yet, or holds no measurements.
    """
    began, screen = time.monotonic(), Screen(console)
    recipe, before = rule_of(folder, sets)
    permit(recipe.teacher, allow_code)
    device = device_of(recipe.bench, folder, energy=recipe.choice.max_joules is not None)
    device.frozen = True
    check_measurable(recipe, device)
    with Run(folder, resolved_yaml(recipe if confirm else before)) as run:
        scale = Scale(
            recipe,
            listed_classes(recipe.data, seed=recipe.seed, cache=run.cache, elsewhere=recipe.labels.elsewhere),
            folder / "artefacts",
            device,
        )
        events = read_journal(folder)
        recipe = scale.recipe = as_proposed(recipe, events, folder)
        random = weigh_random(recipe, run, scale, screen)
        budget_ms = recipe.choice.budget_ms(p50(random[TEACHER]) if TEACHER in random else math.nan)
        scale.material = material = gather_clips(recipe, run, screen)
        engine = LocalEngine(run, material, recipe.labels, deployed_view(recipe.clip)[1])
        legs = Legs(recipe, facts_of(material))
        legs.halved |= halved_before(run, recipe)
        tree = every_leg(legs, recipe.students)
        # This run's own legs: what other runs put into the cache was not measured beside them.
        mine = {e["leg"] for e in events if e["event"] in ("leg_finished", "leg_cached")}
        finished = [engine.train(node) for node in tree if node.hash in mine and run.fetch(node.hash)]
        if not any(f.node.leg.role == "student" for f in finished):
            raise UserError(f"{folder} has no trained student to choose from; run skd-edge compress first")
        weighed, teacher = weigh_trained(recipe, run, scale, engine, finished, TEACHER in random, screen)
        decision = choose(recipe, run, material, weighed, budget_ms, screen)
        if confirm:
            there = {f.node.leg.path for f in finished}
            pruned = {n.leg.path: "not trained in this run" for n in tree
                      if n.leg.role == "student" and n.leg.path not in there}  # fmt: skip
            outcome = Outcome(recipe, run, material, scale, engine, finished, random, weighed, teacher, decision,
                              budget_ms, {}, pruned)  # fmt: skip
            write_json(folder / "report.json", write_result(outcome, time.monotonic() - began))
            render_run(folder)
            screen.say(f"report: {folder / 'report.html'}")
    return decision


def as_proposed(recipe: Recipe, events: Sequence[dict[str, Any]], folder: Path) -> Recipe:
    """The recipe with the networks that the run proposed for itself, where it was asked to.

    Raises:
        UserError: It did not get that far.
    """
    proposals = [e["students"] for e in events if e["event"] == "proposed"]
    if recipe.auto and not proposals:
        raise UserError(f"{folder} has no trained student to choose from; run skd-edge compress first")
    return named_before(recipe, proposals[-1] if proposals else ())


def rule_of(folder: Path, sets: Sequence[str]) -> tuple[Recipe, Recipe]:
    """The run's recipe with its choice changed, and as it was.

    Raises:
        UsageError: It is no run, or something other than ``choice`` is changed.
    """
    if not (folder / MARK).exists():
        raise UsageError(f"{folder} is no run of skd-edge; give the folder that compress wrote")
    file = str(folder / "recipe.yaml")
    before, after = load_recipe(file), load_recipe(file, sets)
    if after.model_copy(update={"choice": before.choice}) != before:
        wrong = next(one for one in sets if not one.startswith("choice."))
        raise UsageError(f"--set {wrong}: only choice.* may change here, because nothing is trained or measured again; "
                         "for anything else: skd-edge compress")  # fmt: skip
    return after, before
