"""``skd-edge labels audit``: which training labels are probably wrong, to look at, to correct, and to go on with.

clips -> the teacher's jobs (the same that ``compress`` trains, in the cache that runs share) -> findings
-> ``audit/index.html`` to look at, ``audit/audit.csv`` to edit, ``audit/audit.json``
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skd_bench.files import write_atomic, write_json
from skd_bench.video.types import WHOLE_FILE
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.data.sources.registry import list_clips
from skd_edge.execution.job_graph import JobFactory, fingerprint_of, topological_order
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.labels.audit.label_errors import SuspectLabel, rank_label_errors
from skd_edge.labels.audit.label_report import audit_summary
from skd_edge.labels.cleaning.pseudo_labels import PseudoLabels
from skd_edge.labels.csv_files import write_sheet
from skd_edge.labels.dataset import TrainingData
from skd_edge.labels.sources.annotators import read_decisions
from skd_edge.pipeline.console import RunConsole
from skd_edge.pipeline.context import RunContext, RunOptions, open_run
from skd_edge.pipeline.stages.preflight import check_training_needs
from skd_edge.pipeline.stages.prepare_data import prepare_data
from skd_edge.pipeline.stages.train import train_jobs
from skd_edge.recipe.schema import Recipe
from skd_edge.report.audit_html import render_audit_html
from skd_edge.report.contact_sheet import build_contact_sheet
from skd_edge.run_folder import open_cache

AUDIT_FOLDER, AUDIT_SHEET = "audit", "audit.csv"


def audit_labels(
    recipe: Recipe,
    out: Path,
    options: RunOptions | None = None,
    *,
    top: int = 100,
    pictures: bool = True,
) -> Path:
    """Audit a recipe's training labels; trains the teacher where it is not in the cache, and nothing else.

    Args:
        recipe: whose labels are looked at.
        out: the run folder; ``compress`` may go on in it.
        options: how; None: silently, with every default.
        top: how many clips the page shows; the table holds every clip that is labelled.
        pictures: show frames of those clips; else nothing of a video is written.

    Returns:
        The page.

    Raises:
        UsageError: The run folder cannot be used, or the recipe names code and ``allow_code`` is False.
        UserError: Something that the recipe names is missing, or cannot be.
    """
    labels = recipe.labels.model_copy(update={"optimise": True})
    recipe = recipe.model_copy(update={"labels": labels})
    options = options or RunOptions()
    check_training_needs(recipe, allow_code=options.allow_code)
    with open_run(recipe, out, options) as ctx:
        ctx.run.record_event("audit_started", recipe=recipe.name, seed=recipe.seed)
        data = prepare_data(ctx, recipe)
        executor = ctx.make_executor(recipe, ctx.run, data)
        pseudo_labels, teacher_accuracy = estimate_labels_with_teacher(recipe, data, executor, ctx.console)
        with ctx.console.progress_bar("estimating intervals"):
            summary = audit_summary(pseudo_labels, data) | {"teacher": teacher_accuracy}
        page = _write_audit(ctx, data, pseudo_labels, summary, top, pictures)
        ctx.run.record_event("audited", noise_rate=summary["noise"]["rate"]["value"], suspects=summary["doubtful"])
        ctx.console.log(f"audit: {page}")
    return page


def estimate_labels_with_teacher(
    recipe: Recipe, training_data: TrainingData, executor: LocalExecutor, console: RunConsole
) -> tuple[PseudoLabels, float]:
    """Pseudo-labels by the recipe's teacher, trained first where it is not in the cache; its accuracy on validation."""
    job = JobFactory(recipe, fingerprint_of(training_data)).make_teacher_job()
    job_results = train_jobs(recipe.teacher, topological_order([job]), executor, console)
    with console.progress_bar("running the teacher on every clip"):
        return executor.pseudo_labels(job), next(
            job_result.accuracy for job_result in job_results if job_result.job.hash == job.hash
        )


def _write_audit(
    ctx: RunContext,
    training_data: TrainingData,
    pseudo_labels: PseudoLabels,
    summary: dict[str, Any],
    top: int,
    pictures: bool,
) -> Path:
    recipe, folder = ctx.recipe, ctx.run.folder / AUDIT_FOLDER
    assert pseudo_labels.evidence is not None
    ranked = rank_label_errors(training_data.weak_labels, pseudo_labels.evidence, training_data.trusted)
    classes, names = training_data.clips.classes, training_data.clips.train.names
    decisions = _read_all_decisions(recipe, folder / AUDIT_SHEET)
    write_sheet(
        folder / AUDIT_SHEET,
        ["rank", "clip", "label", "proposed", "wrong", "confidence", "trusted"],
        _format_sheet_rows(training_data, ranked, dict(decisions)),
    )
    suspect_rows = [
        {
            "rank": rank,
            "clip": names[s.clip],
            "label": classes[s.label],
            "proposed": classes[s.proposed],
            "wrong": s.p_wrong,
            "confidence": s.confidence,
            "why": str(pseudo_labels.why[s.clip]),
            "trusted": decisions.get(names[s.clip], ""),
        }
        for rank, s in enumerate(ranked[:top], 1)
    ]
    summary |= {"name": recipe.name, "seed": recipe.seed, "ranked": len(ranked), "suspects": suspect_rows}
    write_json(folder / "audit.json", summary)
    sheets = _make_contact_sheets(recipe, training_data, ranked[:top], ctx.console) if pictures else {}
    return write_atomic(folder / "index.html", render_audit_html(summary, sheets))


def _format_sheet_rows(
    training_data: TrainingData, ranked: list[SuspectLabel], decisions: dict[str, str]
) -> list[list[str]]:
    """Every clip that is labelled: those in doubt first, then those that are trusted already."""
    classes, names = training_data.clips.classes, training_data.clips.train.names
    rows = [
        [
            str(rank),
            names[s.clip],
            classes[s.label],
            classes[s.proposed],
            f"{s.p_wrong:.4f}",
            f"{s.confidence:.4f}",
            decisions.pop(names[s.clip], ""),
        ]
        for rank, s in enumerate(ranked, 1)
    ]
    return rows + [["", clip, label, "", "", "", label] for clip, label in decisions.items()]


def _read_all_decisions(recipe: Recipe, sheet: Path) -> dict[str, str]:
    """What was decided before, by clip: in the recipe's file, and in the sheet that is about to be written anew."""
    recipe_decisions = read_decisions(recipe.labels.trusted) if recipe.labels.trusted else {}
    return recipe_decisions | (read_decisions(sheet) if sheet.is_file() else {})


def _make_contact_sheets(
    recipe: Recipe, training_data: TrainingData, ranked: list[SuspectLabel], console: RunConsole
) -> dict[str, str]:
    """A contact sheet for each of these clips, by name."""
    train, preprocess = training_data.clips.train, inference_preprocessing(recipe.clip)[1]
    listing = list_clips(
        recipe.data, seed=recipe.seed, cache=open_cache(), external_labels=recipe.labels.has_external_sources
    )
    # Of a part of a file (a span of time, a place in a shard) the stored frames are shown.
    paths = {e.name: e.path for e in listing.entries if e.split == "train" and e.span == WHOLE_FILE}
    sheets = {}
    with console.progress_bar("contact sheets") as bar:
        for done, s in enumerate(ranked, 1):
            name = train.names[s.clip]
            sheets[name] = build_contact_sheet(paths.get(name), train.clips[s.clip], preprocess)
            bar.update(done, len(ranked))
    return sheets
