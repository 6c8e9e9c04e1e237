"""``skd-edge labels audit``: list the training labels that are probably wrong, so that a person can correct them.

The teacher is trained by the same jobs that ``compress`` uses, in the cache that runs share. Its outputs rank the
labels. The results are ``audit/index.html`` (a page to look at), ``audit/audit.csv`` (a table to edit) and
``audit/audit.json`` in the run folder.
"""

from __future__ import annotations

from pathlib import Path

from skd_bench.files import write_atomic, write_json
from skd_bench.video.types import WHOLE_FILE
from skd_edge.data.csv_files import write_sheet
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.data.sources.registry import list_recipe_clips
from skd_edge.execution.job_graph import JobFactory, fingerprint_of, topological_order
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.labels.audit.label_errors import SuspectLabel, rank_label_errors
from skd_edge.labels.audit.label_report import AuditReport, AuditSummary, SuspectClip, audit_summary
from skd_edge.labels.cleaning.pseudo_labels import PseudoLabels
from skd_edge.labels.dataset import TrainingData
from skd_edge.labels.sources.trusted_labels import read_decisions
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
    """Audit a recipe's training labels. The teacher is trained where it is not in the cache; no student is.

    Args:
        recipe: the recipe whose training labels are audited.
        out: the run folder; ``compress`` can continue in it.
        options: how to run it; None: the defaults, without output.
        top: number of clips on the page; the table has a row for every labelled clip.
        pictures: show frames of these clips. False: the page contains no frame of any video.

    Returns:
        Path of the page.

    Raises:
        UsageError: The run folder cannot be used, or the recipe names code and ``allow_code`` is False.
        UserError: Something that the recipe names is missing or not usable.
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
    """Compute pseudo-labels with the recipe's teacher, which is trained first where it is not in the cache.

    Returns:
        The pseudo-labels, and the teacher's accuracy on the validation clips (0 to 1).
    """
    job = JobFactory(recipe, fingerprint_of(training_data)).make_teacher_job()
    job_results = train_jobs(recipe.teacher, topological_order([job]), executor, console)
    with console.progress_bar("running the teacher on every clip"):
        pseudo_labels = executor.pseudo_labels(job)
    return pseudo_labels, next(result.accuracy for result in job_results if result.job.hash == job.hash)


def _write_audit(
    ctx: RunContext,
    training_data: TrainingData,
    pseudo_labels: PseudoLabels,
    summary: AuditSummary,
    top: int,
    pictures: bool,
) -> Path:
    recipe, folder = ctx.recipe, ctx.run.folder / AUDIT_FOLDER
    assert pseudo_labels.evidence is not None
    ranked = rank_label_errors(training_data.given_labels, pseudo_labels.evidence, training_data.trusted)
    classes, names = training_data.clips.classes, training_data.clips.train.names
    decisions = _read_all_decisions(recipe, folder / AUDIT_SHEET)
    write_sheet(
        folder / AUDIT_SHEET,
        ["rank", "clip", "label", "proposed", "wrong", "confidence", "trusted"],
        _format_sheet_rows(training_data, ranked, decisions),
    )
    suspects: list[SuspectClip] = [
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
    audit: AuditReport = {
        **summary,
        "name": recipe.name,
        "seed": recipe.seed,
        "ranked": len(ranked),
        "suspects": suspects,
    }
    write_json(folder / "audit.json", audit)
    sheets = _make_contact_sheets(recipe, training_data, ranked[:top], ctx.console) if pictures else {}
    return write_atomic(folder / "index.html", render_audit_html(audit, sheets))


def _format_sheet_rows(
    training_data: TrainingData, ranked: list[SuspectLabel], decisions: dict[str, str]
) -> list[list[str]]:
    """A row for every labelled clip: first those that may be wrong, then those that a person checked before."""
    decisions = dict(decisions)
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
    """Labels that a person decided earlier, by clip: from the recipe's file, and from the sheet of the last audit."""
    # The sheet is overwritten below; without this, decisions in it that are not in the recipe yet would be lost.
    recipe_decisions = read_decisions(recipe.labels.trusted) if recipe.labels.trusted else {}
    return recipe_decisions | (read_decisions(sheet) if sheet.is_file() else {})


def _make_contact_sheets(
    recipe: Recipe, training_data: TrainingData, ranked: list[SuspectLabel], console: RunConsole
) -> dict[str, str]:
    """A contact sheet (a picture of a few frames, as a data URL) for each of these clips, by clip name."""
    train, preprocess = training_data.clips.train, inference_preprocessing(recipe.clip)[1]
    listing = list_recipe_clips(recipe, open_cache())
    # No path for clips that are a part of a file (a span of time, an entry of a shard): their decoded frames are shown.
    paths = {e.name: e.path for e in listing.entries if e.split == "train" and e.span == WHOLE_FILE}
    sheets = {}
    with console.progress_bar("contact sheets") as bar:
        for done, s in enumerate(ranked, 1):
            name = train.names[s.clip]
            sheets[name] = build_contact_sheet(paths.get(name), train.clips[s.clip], preprocess)
            bar.update(done, len(ranked))
    return sheets
