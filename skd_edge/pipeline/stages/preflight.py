"""Stage 1: check that this machine, the device and the data have what the recipe needs, before any long work."""

from __future__ import annotations

from skd_bench.device.energy.meter import open_energy_meter
from skd_bench.errors import UserError
from skd_bench.runtimes import find_runtime, uses_gpu
from skd_edge.distill.job import METHOD_VERSION
from skd_edge.evaluation.litert_export import check_litert_available
from skd_edge.evaluation.local_device import Device
from skd_edge.labels.cleaning.confident_learning import require_cleanlab
from skd_edge.models.builder import validate_networks
from skd_edge.pipeline.context import RunContext
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import read_journal
from skd_edge.version import VERSION


def check_training_needs(recipe: Recipe, *, allow_code: bool) -> None:
    """Check what training needs, before the run folder is made.

    Raises:
        UsageError: The recipe names code and ``allow_code`` is False.
        UserError: A network cannot be built, or a package is missing.
    """
    validate_networks(recipe, allow_code=allow_code)
    if recipe.labels.method == "confident":
        require_cleanlab()


def check_export_needs(recipe: Recipe) -> None:
    """Check that every kind of file that the recipe wants can be exported here, before the run folder is made.

    Raises:
        UserError: The recipe needs a LiteRT file and the converter is missing.
    """
    if recipe.export.litert or recipe.bench.runtime[0] == "litert":  # the teacher runs on the first runtime
        check_litert_available()


def check_measurable(recipe: Recipe, device: Device) -> None:
    """Check that the recipe's runtimes load and, where it limits energy, that energy can be measured.

    A runtime on a GPU is only needed where the device is this machine, and only if it is the first: the teacher runs on
    it. Files of another one that cannot be used are left out later, each with the reason.

    Raises:
        UserError: A runtime does not load, or this machine has no energy meter; with the reason.
    """
    for number, name in enumerate(recipe.bench.runtime):  # also with bench.host: a CPU's accuracies are computed here
        if not uses_gpu(name) or (device.is_local and number == 0):
            find_runtime(name).import_libraries()
    if not device.energy or not device.is_local or device.cache_only:
        return
    if isinstance(meter := open_energy_meter(), str):
        raise UserError(
            f"choice.max_joules {recipe.choice.max_joules:g}: {meter}. Remove it, or measure on a device with an "
            "energy meter (bench.host)"
        )
    meter.close()


def preflight(ctx: RunContext) -> None:
    """Write the start of the run into its journal, and check the recipe against the classes of the data.

    Raises:
        UserError: The data cannot be listed, or the recipe's background class is not a class of the data.
    """
    _warn_method_changed(ctx)
    ctx.run.record_event(
        "started", recipe=ctx.recipe.name, seed=ctx.recipe.seed, version=VERSION, method=METHOD_VERSION
    )
    if ctx.recipe.cross_validation and ctx.recipe.fold is None:
        ctx.console.log(
            "cross_validation is not used: this run has the splits of data; skd-edge crossval runs the folds"
        )
    reject = ctx.recipe.choice.reject
    background = reject.background if reject else None
    if background is not None and background not in ctx.classes:
        raise UserError(
            f"choice.reject.background {background!r} is not a class of the data; choose from {', '.join(ctx.classes)}"
        )


def _warn_method_changed(ctx: RunContext) -> None:
    """Warn where another version of the method started the run: its jobs have other hashes and are not reused."""
    begun = [e for e in read_journal(ctx.run.folder) if e["event"] == "started"]
    if begun and (before := begun[-1].get("method", METHOD_VERSION)) != METHOD_VERSION:
        ctx.console.log(
            f"this run was started with version {before} of the method and continues with version {METHOD_VERSION}: "
            "its jobs are trained again; the old ones stay in jobs/ and can be deleted"
        )
