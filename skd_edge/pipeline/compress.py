"""The story, top to bottom: weak labels and a teacher in, measured engines and a report out.

weigh every candidate with random weights -> clips -> train the tree of legs -> export and weigh -> choose
-> confirm once on the test clips -> bundle -> report
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from skd_bench.benchmark.latency import Target
from skd_bench.device.energy.meter import open_meter
from skd_bench.errors import UserError
from skd_bench.files import write_json
from skd_bench.runtimes import runtime
from skd_edge import __version__
from skd_edge.data.sources.registry import listed_classes
from skd_edge.distill.distributed import team_of
from skd_edge.distill.job import METHOD
from skd_edge.evaluation.devices import Device, device_of
from skd_edge.evaluation.evaluator import Scale, Weighed
from skd_edge.evaluation.litert_export import require_litert
from skd_edge.evaluation.qat import cannot_be_quantised, fine_tuned
from skd_edge.execution.executors import EngineName, engine_of
from skd_edge.execution.job_graph import Legs, Node
from skd_edge.execution.local_executor import Finished, LocalEngine, OutOfMemory, check_floor
from skd_edge.execution.torchrun_executor import help_out
from skd_edge.labels.audit.label_report import annotators
from skd_edge.labels.cleaning.confident_learning import require_cleanlab
from skd_edge.labels.dataset import Material, gather
from skd_edge.models.builder import admit
from skd_edge.pipeline.console import LegProgress, Screen
from skd_edge.pipeline.plan import Plan, facts_of, plan
from skd_edge.pipeline.stages.benchmark_untrained import p50, propose, tell_budget, tell_larger, weigh_random
from skd_edge.pipeline.stages.bundle import Outcome, write_result
from skd_edge.recipe.loader import resolved_yaml
from skd_edge.recipe.schema import Choice, Recipe
from skd_edge.report.html import render_run
from skd_edge.run_folder import Run, read_journal
from skd_edge.schedule.candidates import TEACHER, Candidate, Form, affordable, alike, candidates, fastest, teachers_form
from skd_edge.schedule.selection import Decision, Measured, decide
from skd_edge.schedule.successive_halving import Search

__all__ = ["Plan", "compress", "plan"]


def compress(
    recipe: Recipe,
    out: Path,
    *,
    console: Console | None = None,
    engine: EngineName = "local",
    threads: int | None = None,
    allow_code: bool = False,
    measurements: Sequence[Path] = (),
    python: str = "python3",
) -> Path:
    """Run a recipe from its clips to its report; what is finished already is not done again.

    Args:
        recipe: what to do.
        out: the run folder, new or of an earlier run.
        console: where progress is shown; None is silent.
        engine: where legs are trained, see ``engine_of``.
        threads: of one leg; None leaves torch's own choice.
        allow_code: whether the recipe's ``teacher.factory``, somebody's code, may run.
        measurements: what packs found on a device without a link, see ``Carried``; instead of measuring.
        python: the Python of ``bench.host``.

    Returns:
        The run folder, with ``report.html``, ``report.json``, ``report.md`` and ``bundle/``.

    Raises:
        UsageError: The run folder cannot be used, or the recipe names code and ``allow_code`` is False.
        UserError: Something that the recipe names is missing, or cannot be; no candidate is within the budget.
    """
    began, screen = time.monotonic(), Screen(console)
    admit(recipe.teacher, clip=recipe.clip, seed=recipe.seed, allow_code=allow_code)
    if recipe.labels.method == "confident":
        require_cleanlab()
    if recipe.export.litert:
        require_litert()
    team = team_of()
    make_engine = engine_of(engine, threads=threads, allow_code=allow_code, team=team)
    if team.rank:
        help_out(team, recipe, out)
        return out
    energy = recipe.choice.max_joules is not None
    device = device_of(recipe.bench, out, measurements=measurements, python=python, energy=energy)
    check_measurable(recipe, device)
    with Run(out, resolved_yaml(recipe)) as run:
        tell_version(run, screen)
        run.journal("started", recipe=recipe.name, seed=recipe.seed, version=__version__, method=METHOD)
        # Before any clip is rendered or decoded: a budget that nobody can meet costs nothing but this.
        classes = listed_classes(recipe.data, seed=recipe.seed, cache=run.cache, elsewhere=recipe.labels.elsewhere)
        check_background(recipe.choice, classes)
        scale = Scale(recipe, classes, run.folder / "artefacts", device)
        scale.say = screen.say
        recipe = scale.recipe = propose(recipe, run, scale, screen)
        random = weigh_random(recipe, run, scale, screen)
        p50_ms = {name: p50(one) for name, one in random.items()}
        budget_ms = recipe.choice.budget_ms(p50_ms.get(TEACHER, math.nan))
        joules = {name: one.joules.value for name, one in random.items() if one.joules}
        students, dropped = affordable(recipe, p50_ms, budget_ms, scale.untrained, joules)
        tell_budget(recipe, run, screen, random, budget_ms, dropped)
        tell_larger(recipe, students, run, scale, screen)

        scale.material = material = gather_clips(recipe, run, screen)
        legs = Legs(recipe, facts_of(material))
        search = Search(legs, students, fastest(recipe, p50_ms), material.clips.val.groups, run.journal)
        trainer = make_engine(recipe, run, material)
        finished = train(recipe, run, search, trainer, screen)

        weighed, teacher = weigh_trained(recipe, run, scale, trainer, finished, TEACHER in random, screen)
        decision = choose(recipe, run, material, weighed, budget_ms, screen)
        outcome = Outcome(recipe, run, material, scale, trainer, finished, random, weighed, teacher, decision,
                          budget_ms, dropped, search.pruned)  # fmt: skip
        write_json(run.folder / "report.json", write_result(outcome, time.monotonic() - began))
        render_run(run.folder)
        run.journal("finished", seconds=round(time.monotonic() - began, 1))
        screen.say(f"report: {run.folder / 'report.html'}")
    team.tell(None)  # nothing is left
    return out


def check_background(choice: Choice, classes: Sequence[str]) -> None:
    """Say at once what would otherwise be missed after the training."""
    background = choice.reject.background if choice.reject else None
    if background is not None and background not in classes:
        raise UserError(
            f"choice.reject.background {background!r} is no class of the data; there are: {', '.join(classes)}"
        )


def check_measurable(recipe: Recipe, device: Device) -> None:
    """Say before anything is made that a runtime does not load, or that joules are not counted here.

    Raises:
        UserError: With the runtime's or the meter's own reason.
    """
    for name in recipe.bench.runtime:  # also where another machine measures: accuracies are computed on this one
        runtime(name).prepare()
    if not device.energy or not device.here or device.frozen:
        return
    if isinstance(meter := open_meter(), str):
        raise UserError(
            f"choice.max_joules {recipe.choice.max_joules:g}: {meter}. Remove it, or let a device with an energy meter "
            "measure (bench.host)"
        )
    meter.close()


def tell_version(run: Run, screen: Screen) -> None:
    """Say when the run was begun by another version of the method, whose legs have other hashes."""
    begun = [e for e in read_journal(run.folder) if e["event"] == "started"]
    if begun and (before := begun[-1].get("method", METHOD)) != METHOD:
        screen.say(f"this run was begun with version {before} of the method and goes on with version {METHOD}: its "
                   "legs are trained anew, the old ones stay in legs/ and can be deleted")  # fmt: skip


def gather_clips(recipe: Recipe, run: Run, screen: Screen) -> Material:
    """The clips, decoded once, and the labels that training may see."""
    with (
        screen.stage("rendering the generated clips") as rendering,
        screen.stage("decoding clips") as decoding,
        screen.stage("asking the voting models") as judging,
    ):
        material = gather(recipe, run.cache, rendered=rendering.count, decoded=decoding.count, judged=judging.count)
    clips = material.clips
    run.journal("clips", train=len(clips.train), val=len(clips.val), test=len(clips.test), bad=len(clips.quarantined),
                unlabelled=material.unlabelled)  # fmt: skip
    wrong = "" if material.made_wrong is None else f", {material.made_wrong:.0%} of the labels made wrong"
    if material.unlabelled:
        wrong += f", {material.unlabelled} training clips unlabelled"
    if material.trusted is not None:
        run.journal("trusted", clips=int(material.trusted.sum()))
        wrong += f", {material.trusted.sum()} labels checked by a person"
    if material.votes:
        run.journal("votes", aggregate=recipe.labels.aggregate, annotators=annotators(material))
        wrong += f"; labels by {recipe.labels.aggregate} of {len(material.votes.annotators)} annotators"
    screen.say(f"{len(clips.train)} training, {len(clips.val)} validation, {len(clips.test)} test clips; "
               f"{len(clips.classes)} classes{wrong}; {len(clips.quarantined)} unreadable")  # fmt: skip
    return material


def train(recipe: Recipe, run: Run, search: Search, engine: LocalEngine, screen: Screen) -> list[Finished]:
    """What the search asks for; a network that does not fit into memory learns in half batches, under new hashes."""
    batch, halved = recipe.training.batch, search.legs.halved
    halved |= halved_before(run, recipe)
    while True:
        try:
            return follow(recipe, search, engine, screen)
        except OutOfMemory as error:
            if error.learner in halved:
                raise
            halved.add(error.learner)
            run.journal("halved", learner=error.learner, batch=batch, reason=str(error))
            if engine.team.size > 1:  # the other processes still wait in the step that this one left
                raise UserError(f"{error}; start the same command again: {error.learner}'s batches of {batch} will go "
                                "through in half parts")  from error  # fmt: skip
            screen.say(f"{error.learner}: out of memory; its batches of {batch} go through in half parts from now on")


def halved_before(run: Run, recipe: Recipe) -> set[str]:
    """Names of the networks whose batches of this size did not fit into memory in this run."""
    events = (e for e in read_journal(run.folder) if e["event"] == "halved")
    return {e["learner"] for e in events if e["batch"] == recipe.training.batch}


def follow(recipe: Recipe, search: Search, engine: LocalEngine, screen: Screen) -> list[Finished]:
    """Step by step: what is finished decides what comes next."""
    finished: list[Finished] = []
    steps = search.steps()
    tree = next(steps)
    while True:
        finished += (done := train_legs(recipe, tree, engine, screen))
        try:
            tree = steps.send({leg.node.hash: leg for leg in done})
        except StopIteration:
            return finished


def train_legs(recipe: Recipe, tree: list[Node], engine: LocalEngine, screen: Screen) -> list[Finished]:
    """These legs, teachers first; a teacher below the recipe's floor stops it before anything learns from it."""
    finished = []
    with LegProgress(screen, tree) as progress, closing(engine.train_all(tree)) as legs:
        engine.report = progress.row
        for leg in legs:
            finished.append(leg)
            progress.end(leg)
            check_floor(recipe.teacher, leg)
    return sorted(finished, key=lambda leg: tree.index(leg.node))  # an engine may finish them in another order


def weigh_trained(
    recipe: Recipe,
    run: Run,
    scale: Scale,
    engine: LocalEngine,
    finished: list[Finished],
    exportable: bool,
    screen: Screen,
) -> tuple[dict[Candidate, Weighed], Weighed | None]:
    """Export every trained student, measure all files side by side, score each; and the teacher's, where it has one."""
    roles = ("student", "teacher") if exportable else ("student",)
    ways = {f.node.leg.path: f for f in finished if f.node.leg.role in roles}
    wanted = [c for c in candidates(recipe) if c.path in ways and c.untrained not in scale.cannot]
    networks = {path: engine.network(f.node) for path, f in ways.items()}
    files: dict[tuple[str, ...], dict[Form, Path]] = {}
    with screen.stage("exporting and measuring the trained files") as bar:
        for number, (path, network) in enumerate(networks.items()):
            bar.count(number, len(networks))
            precisions = recipe.export.precisions if len(path) > 1 else ("fp32",)
            made = scale.export(network, ways[path].node.hash, precisions)
            if recipe.export.qat_epochs and len(path) > 1 and "int8" in made and cannot_be_quantised(made["int8"]):
                made["int8"] = fine_tuned(scale, engine, ways[path].node, network, made["int8"])
            for precision, file in made.items():
                run.journal("artefact", name=">".join(path), precision=precision, leg=ways[path].node.hash,
                            bytes=file.stat().st_size)  # fmt: skip
            mine = [c.form for c in wanted if c.path == path] if len(path) > 1 else [teachers_form(recipe)]
            files[path] = {form: made[form.precision] for form in mine}
        targets = [Target(f"{'>'.join(p)} {form.name}", file, form.runtime)
                   for p, mine in files.items() for form, file in mine.items()]  # fmt: skip
        latency = scale.latency(targets, bar.count)
    weighed: dict[tuple[tuple[str, ...], Form], Weighed] = {}
    for path, network in networks.items():
        named = {form: f"{'>'.join(path)} {form.name}" for form in files[path]}
        for form, one in scale.weigh(network, files[path], {f: latency[name] for f, name in named.items()}).items():
            weighed[path, form] = one
            run.journal("measured", name=named[form], accuracy=one.accuracy.top1.value, p50_ms=p50(one.latency))
    return {c: weighed[c.path, c.form] for c in wanted}, weighed.get(((recipe.teacher.name,), teachers_form(recipe)))


def choose(
    recipe: Recipe,
    run: Run,
    material: Material,
    weighed: dict[Candidate, Weighed],
    budget_ms: float | None,
    screen: Screen,
) -> Decision:
    """Choose on the validation clips; the test clips are not looked at here."""
    small = recipe.choice.max_megabytes or recipe.choice.max_joules  # a slower precision may be wanted for these
    ms = alike({c: p50(w.latency) for c, w in weighed.items()})
    measured = [
        Measured(c.name, ms[c], w.accuracy.top1.value, w.correct, w.accuracy.macro_f1,
                 w.path.stat().st_size / 1e6, w.refused or (None if small else w.slower),
                 w.latency.joules.value if w.latency.joules else None)
        for c, w in weighed.items()
    ]  # fmt: skip
    decision = decide(measured, recipe.choice, budget_ms, material.clips.val.groups)
    run.journal("chosen", name=decision.chosen, why=decision.why, reasons=decision.reasons)
    for m in sorted(measured, key=lambda m: m.p50_ms):
        mark = "->" if m.name == decision.chosen else "  "
        screen.say(f"{mark} {m.name}: {m.accuracy:.1%}, {m.p50_ms:.2f} ms; {decision.reasons.get(m.name, '')}")
    return decision
