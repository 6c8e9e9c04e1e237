"""Before anything costs time: what a recipe asks of this machine, of its device and of its classes."""

from __future__ import annotations

from collections.abc import Sequence

from skd_bench.device.energy.meter import open_energy_meter
from skd_bench.errors import UserError
from skd_bench.runtimes import find_runtime
from skd_edge.distill.job import METHOD_VERSION
from skd_edge.evaluation.devices import Device
from skd_edge.pipeline.console import RunConsole
from skd_edge.recipe.schema import Recipe
from skd_edge.recipe.sections import SelectionRule
from skd_edge.run_folder import Run, read_journal


def check_reject_background(choice: SelectionRule, classes: Sequence[str]) -> None:
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
        find_runtime(name).import_libraries()
    if not device.energy or not device.is_local or device.cache_only:
        return
    if isinstance(meter := open_energy_meter(), str):
        raise UserError(
            f"choice.max_joules {recipe.choice.max_joules:g}: {meter}. Remove it, or let a device with an energy meter "
            "measure (bench.host)"
        )
    meter.close()


def warn_method_changed(run: Run, console: RunConsole) -> None:
    """Say when the run was begun by another version of the method, whose jobs have other hashes."""
    begun = [e for e in read_journal(run.folder) if e["event"] == "started"]
    if begun and (before := begun[-1].get("method", METHOD_VERSION)) != METHOD_VERSION:
        console.log(
            f"this run was begun with version {before} of the method and goes on with version {METHOD_VERSION}: its "
            "jobs are trained anew, the old ones stay in jobs/ and can be deleted"
        )
