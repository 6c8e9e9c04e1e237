"""Before anything costs time: what a recipe asks of this machine, of its device and of its classes."""

from __future__ import annotations

from skd_bench.device.energy.meter import open_energy_meter
from skd_bench.errors import UserError
from skd_bench.runtimes import find_runtime
from skd_edge.distill.job import METHOD_VERSION
from skd_edge.evaluation.devices import Device
from skd_edge.evaluation.litert_export import check_litert_available
from skd_edge.labels.cleaning.confident_learning import require_cleanlab
from skd_edge.models.builder import validate_teacher
from skd_edge.pipeline.context import RunContext
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import read_journal
from skd_edge.version import VERSION


def check_training_needs(recipe: Recipe, *, allow_code: bool) -> None:
    """Fail before a run folder is made where training needs what is not here.

    Raises:
        UsageError: The recipe names code and ``allow_code`` is False.
        UserError: The teacher cannot be made, or a package is missing.
    """
    validate_teacher(recipe.teacher, clip=recipe.clip, seed=recipe.seed, allow_code=allow_code)
    if recipe.labels.method == "confident":
        require_cleanlab()


def check_export_needs(recipe: Recipe) -> None:
    """Fail before a run folder is made where a file that the recipe wants cannot be written here.

    Raises:
        UserError: The converter to LiteRT is missing.
    """
    if recipe.export.litert:
        check_litert_available()


def check_measurable(recipe: Recipe, device: Device) -> None:
    """Fail before anything is made where a runtime does not load, or joules cannot be counted.

    Raises:
        UserError: With the runtime's or the meter's own reason.
    """
    for name in recipe.bench.runtime:  # also where another machine measures: accuracies are computed on this one
        find_runtime(name).import_libraries()
    if not device.energy or not device.is_local or device.cache_only:
        return
    if isinstance(meter := open_energy_meter(), str):
        raise UserError(
            f"choice.max_joules {recipe.choice.max_joules:g}: {meter}. Remove it, or let a device with an energy meter "
            "measure (bench.host)"
        )
    meter.close()


def preflight(ctx: RunContext) -> None:
    """Begin the run in its journal; check what is known as soon as the classes are.

    Raises:
        UserError: The data cannot be listed, or the recipe's background class is not a class of the data.
    """
    _warn_method_changed(ctx)
    ctx.run.record_event(
        "started", recipe=ctx.recipe.name, seed=ctx.recipe.seed, version=VERSION, method=METHOD_VERSION
    )
    reject = ctx.recipe.choice.reject
    background = reject.background if reject else None
    if background is not None and background not in ctx.classes:
        raise UserError(
            f"choice.reject.background {background!r} is not a class of the data; choose from {', '.join(ctx.classes)}"
        )


def _warn_method_changed(ctx: RunContext) -> None:
    """Jobs of another version of the method have other hashes: they are not found again."""
    begun = [e for e in read_journal(ctx.run.folder) if e["event"] == "started"]
    if begun and (before := begun[-1].get("method", METHOD_VERSION)) != METHOD_VERSION:
        ctx.console.log(
            f"this run was begun with version {before} of the method and goes on with version {METHOD_VERSION}: its "
            "jobs are trained anew, the old ones stay in jobs/ and can be deleted"
        )
