"""``skd-edge labels audit``: which training labels are probably wrong, to look at, to correct, and to go on with.

clips -> the teacher's legs (the same that ``compress`` trains, in the cache that runs share) -> findings
-> ``audit/index.html`` to look at, ``audit/audit.csv`` to edit, ``audit/audit.json``
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from skd_bench.files import write_atomic, write_json
from skd_bench.video.clip import WHOLE
from skd_edge.data.sources.registry import list_clips
from skd_edge.execution.executors import engine_of
from skd_edge.execution.job_graph import Legs, in_order
from skd_edge.execution.local_executor import LocalEngine
from skd_edge.labels.audit.label_errors import Suspect, suspects
from skd_edge.labels.audit.label_report import findings_of
from skd_edge.labels.cleaning.confident_learning import require_cleanlab
from skd_edge.labels.cleaning.pseudo_labels import PseudoLabels
from skd_edge.labels.csv_files import write_sheet
from skd_edge.labels.dataset import Material, deployed_view
from skd_edge.labels.sources.annotators import read_decisions
from skd_edge.models.builder import admit
from skd_edge.pipeline.compress import gather_clips, train_legs
from skd_edge.pipeline.console import Screen
from skd_edge.pipeline.plan import facts_of
from skd_edge.recipe.loader import resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.report.audit_html import audit_html
from skd_edge.report.contact_sheet import contact_sheet
from skd_edge.run_folder import Run, cache_root

FOLDER, SHEET = "audit", "audit.csv"


def audit(
    recipe: Recipe,
    out: Path,
    *,
    console: Console | None = None,
    top: int = 100,
    pictures: bool = True,
    threads: int | None = None,
    allow_code: bool = False,
) -> Path:
    """Audit a recipe's training labels; trains the teacher where it is not in the cache, and nothing else.

    Args:
        recipe: whose labels are looked at.
        out: the run folder; ``compress`` may go on in it.
        console: where progress is shown; None is silent.
        top: how many clips the page shows; the table holds every clip that is labelled.
        pictures: show frames of those clips; else nothing of a video is written.
        threads: of one leg; None leaves torch's own choice.
        allow_code: whether the recipe's ``teacher.factory``, somebody's code, may run.

    Returns:
        The page.

    Raises:
        UsageError: The run folder cannot be used, or the recipe names code and ``allow_code`` is False.
        UserError: Something that the recipe names is missing, or cannot be.
    """
    screen = Screen(console)
    labels = recipe.labels.model_copy(update={"optimise": True})
    recipe = recipe.model_copy(update={"labels": labels})
    admit(recipe.teacher, clip=recipe.clip, seed=recipe.seed, allow_code=allow_code)
    if labels.method == "confident":
        require_cleanlab()
    make_engine = engine_of("local", threads=threads, allow_code=allow_code)
    with Run(out, resolved_yaml(recipe)) as run:
        run.journal("audit_started", recipe=recipe.name, seed=recipe.seed)
        material = gather_clips(recipe, run, screen)
        engine = make_engine(recipe, run, material)
        pseudo, right = teacher_labels(recipe, material, engine, screen)
        with screen.stage("estimating intervals"):
            found = findings_of(pseudo, material) | {"teacher": right}
        page = _write(recipe, run.folder / FOLDER, material, pseudo, found, top, pictures, screen)
        run.journal("audited", noise_rate=found["noise"]["rate"]["value"], suspects=found["doubtful"])
    screen.say(f"audit: {page}")
    return page


def teacher_labels(
    recipe: Recipe, material: Material, engine: LocalEngine, screen: Screen
) -> tuple[PseudoLabels, float]:
    """Pseudo-labels by the recipe's teacher, trained first where it is not in the cache; its accuracy on validation."""
    node = Legs(recipe, facts_of(material)).teacher()
    legs = train_legs(recipe, in_order([node]), engine, screen)
    with screen.stage("asking the teacher about every clip"):
        return engine.pseudo_labels(node), next(leg.accuracy for leg in legs if leg.node.hash == node.hash)


def _write(
    recipe: Recipe, folder: Path, material: Material, pseudo: PseudoLabels, found: dict[str, Any],
    top: int, pictures: bool, screen: Screen,
) -> Path:  # fmt: skip
    assert pseudo.evidence is not None
    ranked = suspects(material.weak, pseudo.evidence, material.trusted)
    classes, names = material.clips.classes, material.clips.train.names
    decisions = _decisions(recipe, folder / SHEET)
    write_sheet(folder / SHEET, ["rank", "clip", "label", "proposed", "wrong", "confidence", "trusted"],
                _rows(material, ranked, dict(decisions)))  # fmt: skip
    listed = [
        {"rank": rank, "clip": names[s.clip], "label": classes[s.label], "proposed": classes[s.proposed],
         "wrong": s.wrong, "confidence": s.confidence, "why": str(pseudo.why[s.clip]),
         "trusted": decisions.get(names[s.clip], "")}
        for rank, s in enumerate(ranked[:top], 1)
    ]  # fmt: skip
    found |= {"name": recipe.name, "seed": recipe.seed, "ranked": len(ranked), "suspects": listed}
    write_json(folder / "audit.json", found)
    sheets = _sheets(recipe, material, ranked[:top], screen) if pictures else {}
    return write_atomic(folder / "index.html", audit_html(found, sheets))


def _rows(material: Material, ranked: list[Suspect], decisions: dict[str, str]) -> list[list[str]]:
    """Every clip that is labelled: those in doubt first, then those that are trusted already."""
    classes, names = material.clips.classes, material.clips.train.names
    rows = [
        [str(rank), names[s.clip], classes[s.label], classes[s.proposed], f"{s.wrong:.4f}", f"{s.confidence:.4f}",
         decisions.pop(names[s.clip], "")]
        for rank, s in enumerate(ranked, 1)
    ]  # fmt: skip
    return rows + [["", clip, label, "", "", "", label] for clip, label in decisions.items()]


def _decisions(recipe: Recipe, sheet: Path) -> dict[str, str]:
    """What was decided before, by clip: in the recipe's file, and in the sheet that is about to be written anew."""
    said = read_decisions(recipe.labels.trusted) if recipe.labels.trusted else {}
    return said | (read_decisions(sheet) if sheet.is_file() else {})


def _sheets(recipe: Recipe, material: Material, shown: list[Suspect], screen: Screen) -> dict[str, str]:
    """A contact sheet for each of these clips, by name."""
    train, preprocess = material.clips.train, deployed_view(recipe.clip)[1]
    listing = list_clips(recipe.data, seed=recipe.seed, cache=cache_root(), elsewhere=recipe.labels.elsewhere)
    # Of a part of a file (a span of time, a place in a shard) the stored frames are shown.
    paths = {e.name: e.path for e in listing.entries if e.split == "train" and e.part == WHOLE}
    sheets = {}
    with screen.stage("contact sheets") as bar:
        for done, s in enumerate(shown, 1):
            name = train.names[s.clip]
            sheets[name] = contact_sheet(paths.get(name), train.clips[s.clip], preprocess)
            bar.count(done, len(shown))
    return sheets
