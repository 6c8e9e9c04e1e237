"""What a cross-validation costs: the plan of one fold, times the number of folds that are left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skd_edge.data.sources.registry import is_rendered, list_folds
from skd_edge.pipeline.crossval.crossval import fold_folder, make_fold_recipe
from skd_edge.pipeline.crossval.fold_answers import read_fold_answers
from skd_edge.pipeline.plan import Plan, plan
from skd_edge.recipe.data import GeneratedData
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import check_run_kind, open_cache


@dataclass(frozen=True)
class CrossValidationPlan:
    """The cost of a cross-validation on this machine.

    Attributes:
        fold: number of the first fold that is not finished, from 1; None if all are.
        plan: the plan of that fold.
        left: number of folds that are not finished.
        folds: number of all folds.
        groups: number of groups that are tested.
        clips: number of clips that are tested.
    """

    fold: int | None
    plan: Plan | None
    left: int
    folds: int
    groups: int
    clips: int

    @property
    def seconds(self) -> float:
        """Seconds that are left, at most: clips are decoded once; jobs of further folds may be cached too."""
        if self.plan is None:
            return 0.0
        return self.plan.seconds + (self.left - 1) * (self.plan.uncached_seconds + self.plan.measurement_seconds)

    def to_text(self, hourly: float | None = None) -> str:
        """The plan as text for a terminal.

        Args:
            hourly: price of an hour of this machine, in any currency.
        """
        head = f"{self.folds} folds of {self.clips} clips in {self.groups} groups; {self.left} folds are left"
        if self.plan is None:
            return f"{head}, so that only the report is written"
        cost = "" if hourly is None else f"; cost: {hourly * self.seconds / 3600:.3f} at {hourly:g} an hour"
        lines = [
            head,
            "",
            f"fold {self.fold}:",
            self.plan.to_text(),
            "",
            f"all folds that are left ({self.left}): at most about {self.seconds / 60:.1f} min; clips are decoded "
            f"once, and a further fold costs what this one costs without cached jobs{cost}",
        ]
        return "\n".join(lines)


def plan_crossval(
    recipe: Recipe, out: Path, *, allow_code: bool = False, quick: bool = False, most_jobs: int | None = None
) -> CrossValidationPlan:
    """Plan a cross-validation without decoding, training or writing anything; arguments and errors as for `plan`.

    Raises:
        FoldError: The clips cannot be divided into these folds.
        UsageError: The folder is a single run.
    """
    check_run_kind(out, crossval=True)
    groups, clips = _count_tested(recipe)
    count = recipe.cross_validation.folds if recipe.cross_validation else 0
    recipes = {fold: make_fold_recipe(recipe, fold) for fold in range(1, count + 1)}
    left = [fold for fold in recipes if read_fold_answers(fold_folder(out, fold), recipes[fold]) is None]
    planned = (
        plan(recipes[left[0]], fold_folder(out, left[0]), allow_code=allow_code, quick=quick, most_jobs=most_jobs)
        if left
        else None
    )
    return CrossValidationPlan(left[0] if left else None, planned, len(left), count, groups, clips)


def _count_tested(recipe: Recipe) -> tuple[int, int]:
    """Number of groups and of clips that are tested. The generated set is not rendered to count its clips."""
    cache, data = open_cache(), recipe.data
    if recipe.cross_validation and isinstance(data, GeneratedData) and not is_rendered(data, recipe.seed, cache):
        count = data.train + data.val + data.test
        return count, count
    folds = list_folds(recipe, cache)
    return len(folds.fold_by_group), len(folds.tested)
