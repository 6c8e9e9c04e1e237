"""``skd-edge crossval``: divide the clips into folds of whole groups, run each fold, and pool the answers."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from skd_bench.errors import EXIT_PAUSED, UsageError, UserError
from skd_bench.integrity.checked_files import write_checked_json
from skd_edge.data.csv_files import read_sheet, write_sheet
from skd_edge.data.sources.group_folds import FoldError, GroupFolds
from skd_edge.data.sources.registry import list_folds
from skd_edge.data.store.clip_store import format_file_stamp
from skd_edge.distill.distributed import count_processes
from skd_edge.pipeline.compress import compress
from skd_edge.pipeline.console import RunConsole
from skd_edge.pipeline.context import RunOptions
from skd_edge.pipeline.crossval.fold_answers import FoldAnswers, read_fold_answers
from skd_edge.pipeline.crossval.pooled_report import FoldResult, build_crossval_report
from skd_edge.pipeline.stages.preflight import check_export_needs, check_training_needs
from skd_edge.recipe.loader import resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.report.crossval.html import render_crossval
from skd_edge.report.crossval.schema import CROSSVAL_FILE
from skd_edge.run_folder import CROSSVAL_EVENT, Run, check_run_kind, open_cache, read_journal

FOLDS_FILE = "folds.csv"
_COLUMNS = ("clip", "label", "group", "fold")


@dataclass(frozen=True)
class CrossValidationResult:
    """What a cross-validation ended with.

    Attributes:
        folder: its folder, with ``crossval.html``, ``crossval.md``, ``crossval.json`` and ``folds/``.
        failed: why folds failed, by their number.
    """

    folder: Path
    failed: dict[int, str]


def cross_validate(recipe: Recipe, out: Path, options: RunOptions | None = None) -> CrossValidationResult:
    """Run every fold of a recipe's cross-validation that is not finished yet, one after the other, and report.

    A fold that fails does not stop the others.

    Args:
        recipe: what to run; it has the section ``cross_validation``.
        out: the folder, new or of an earlier start of the same cross-validation.
        options: how each fold is run. None: the defaults, without output.

    Raises:
        FoldError: The clips cannot be divided into these folds, or into other folds than an earlier start did.
        UsageError: The folder cannot be used, or torchrun started this process.
        UserError: The data cannot be listed; or with exit code 75: a fold paused, and the same call continues.
    """
    options = options or RunOptions()
    if recipe.fold is not None:
        raise FoldError("cross_validation.fold", "crossval runs every fold; remove it, or run compress for this fold")
    if count_processes() > 1:
        raise UsageError("crossval does not run under torchrun; start it as one process, with --jobs or --engine ray")
    check_training_needs(recipe, allow_code=options.allow_code)
    check_export_needs(recipe)
    check_run_kind(out, crossval=True)
    console = RunConsole(options.console)
    with console.progress_bar("rendering the generated clips") as rendering:
        folds = list_folds(recipe, open_cache(), rendering.update)
    with Run(out, resolved_yaml(recipe), hide_values=recipe.path_texts.hide_values) as run:
        run.record_event(CROSSVAL_EVENT, recipe=recipe.name, seed=recipe.seed, folds=folds.settings.folds)
        _store_folds(run, folds)
        results = _FoldRunner(recipe, run, options, console, folds).run()
        report = build_crossval_report(recipe, folds, results)
        content = recipe.path_texts.hide_values(report.model_dump(mode="json", by_alias=True))
        write_checked_json(out / CROSSVAL_FILE, content)
        render_crossval(out)
        run.record_event("crossval_finished", failed=[r.fold for r in results if r.answers is None])
    console.log(f"report: {out / 'crossval.html'}")
    return CrossValidationResult(out, {r.fold: r.reason for r in results if r.answers is None})


def make_fold_recipe(recipe: Recipe, fold: int) -> Recipe:
    """The recipe of the run of one fold, from 1."""
    settings = recipe.cross_validation
    assert settings is not None
    return recipe.model_copy(update={"cross_validation": settings.model_copy(update={"fold": fold})})


def fold_folder(out: Path, fold: int) -> Path:
    """The run folder of one fold."""
    return out / "folds" / str(fold)


class _FoldRunner:
    """Runs the folds one after the other."""

    def __init__(self, recipe: Recipe, run: Run, options: RunOptions, console: RunConsole, folds: GroupFolds) -> None:
        self.recipe, self.run_folder, self.options, self.console, self.folds = recipe, run, options, console, folds
        stamps = ((e.name, format_file_stamp(e.path)) for e in folds.listing.entries)
        self.data_stamp = hashlib.sha256(repr(sorted(stamps)).encode("utf-8", "backslashreplace")).hexdigest()[:16]
        self._seconds: list[float] = []

    def run(self) -> list[FoldResult]:
        """Run the folds that are not finished; every fold gives a result."""
        return [self._run_fold(fold) for fold in range(1, self.folds.settings.folds + 1)]

    def _run_fold(self, fold: int) -> FoldResult:
        recipe, count = make_fold_recipe(self.recipe, fold), self.folds.settings.folds
        folder = fold_folder(self.run_folder.folder, fold)
        if (answers := self._find_finished(recipe, folder, fold)) is not None:
            self.console.log(f"fold {fold} of {count}: finished before")
            return FoldResult(fold, folder, answers)
        left = sum(self._seconds) / len(self._seconds) * (count - fold + 1) if self._seconds else 0.0
        about = f", about {left / 60:.0f} min left" if left > 60 else ""
        self.console.log(f"fold {fold} of {count}{about}: tests {self._describe_groups(fold)}")
        began = time.monotonic()
        try:
            compress(recipe, folder, self.options)
        except UserError as error:
            if error.exit_code == EXIT_PAUSED:
                raise
            self.run_folder.record_event("fold_failed", fold=fold, reason=str(error))
            self.console.log(f"fold {fold} of {count} failed: {error}")
            return FoldResult(fold, folder, None, str(error))
        self._seconds.append(time.monotonic() - began)
        self.run_folder.record_event("fold_finished", fold=fold, data=self.data_stamp)
        answers = read_fold_answers(folder, recipe)
        if answers is None:
            raise UserError(f"the answers of {folder} cannot be read back; is the disk in order? Run the command again")
        return FoldResult(fold, folder, answers)

    def _find_finished(self, recipe: Recipe, folder: Path, fold: int) -> FoldAnswers | None:
        """The answers of a fold that was finished before with this recipe and these files."""
        events = (e for e in read_journal(self.run_folder.folder) if e["event"] == "fold_finished")
        if not any((e["fold"], e["data"]) == (fold, self.data_stamp) for e in events):
            return None
        return read_fold_answers(folder, recipe)

    def _describe_groups(self, fold: int) -> str:
        names = sorted(group for group, number in self.folds.fold_by_group.items() if number == fold)
        listed = ", ".join([*names[:4], *(["..."] if len(names) > 4 else [])])
        return f"{len(names)} group{'s' if len(names) > 1 else ''} ({listed})"


def _store_folds(run: Run, folds: GroupFolds) -> None:
    """Write which fold tests which clip; if an earlier start did, check that the folds are the same.

    Raises:
        FoldError: They are not.
    """
    file = run.folder / FOLDS_FILE
    cells = ((e.name, e.label, e.group, str(folds.fold_by_group[e.group])) for e in folds.tested)
    rows = sorted(tuple(cell.encode("utf-8", "backslashreplace").decode() for cell in row) for row in cells)
    if not file.exists():
        write_sheet(file, _COLUMNS, rows)
        return
    before = [tuple(row[column] for column in _COLUMNS) for _, row in read_sheet(file, _COLUMNS)]
    if before != rows:
        changed = min(set(before) ^ set(rows))
        was, now = ({row[0]: row[3] for row in each}.get(changed[0]) for each in (before, rows))
        texts = [f"was {'in fold ' + was if was else 'in no fold'}", f"is {'in fold ' + now if now else 'in none'}"]
        raise FoldError(
            "cross_validation",
            f"the folds are not those of {file} (first: {changed[0]} {texts[0]} and {texts[1]} now, or its label or "
            "group changed): the clips, their groups, the seed or this section changed; choose another folder with "
            "--out, or delete this one",
        )
