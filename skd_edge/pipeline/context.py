"""What every stage of a run is given: where it works, what measures and trains, and who is informed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rich.console import Console

from skd_edge.data.sources.registry import list_classes
from skd_edge.distill.distributed import ProcessGroup
from skd_edge.distill.trainer import SINGLE_PROCESS
from skd_edge.evaluation.candidate_exporter import CandidateExporter
from skd_edge.evaluation.devices import Device, make_device
from skd_edge.evaluation.file_scorer import FileScorer
from skd_edge.execution.executors import ExecutorFactory, ExecutorName, make_executor_factory
from skd_edge.pipeline.console import RunConsole
from skd_edge.recipe.loader import resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run


@dataclass(frozen=True)
class RunOptions:
    """How a recipe is run; nothing here changes its results.

    Attributes:
        console: where progress is shown; None is silent.
        engine: where jobs are trained, see `make_executor_factory`.
        threads: of one job; None leaves torch's own choice.
        allow_code: whether the recipe's ``teacher.factory``, somebody's code, may run.
        measurements: results of packs that measured on a device without a link, instead of measuring; see
            `OfflineDevice`.
        python: the Python of ``bench.host``.
    """

    console: Console | None = None
    engine: ExecutorName = "local"
    threads: int | None = None
    allow_code: bool = False
    measurements: tuple[Path, ...] = ()
    python: str = "python3"


@dataclass(frozen=True)
class RunContext:
    """A run folder that this process holds, and what its stages work with.

    Attributes:
        recipe: as it was given; `UntrainedBenchmark.recipe` has the proposed networks written out.
        run: the run folder, locked.
        device: where files are measured.
        make_executor: makes what trains, once there are clips.
        console: where progress is shown.
        began: `time.monotonic` at the start, seconds.
    """

    recipe: Recipe
    run: Run
    device: Device
    make_executor: ExecutorFactory
    console: RunConsole
    began: float

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the logits; no clip is decoded for them.

        Raises:
            UserError: The data cannot be listed.
        """
        external = self.recipe.labels.has_external_sources
        return list_classes(self.recipe.data, seed=self.recipe.seed, cache=self.run.cache, external_labels=external)

    @cached_property
    def exporter(self) -> CandidateExporter:
        """Writes the files of networks."""
        return CandidateExporter(
            self.recipe,
            self.classes,
            self.run.folder / "artefacts",
            int8_saturates=lambda: self.device.int8_saturates,
            log=self.console.log,
        )

    @cached_property
    def scorer(self) -> FileScorer:
        """Runs files on clips."""
        return FileScorer(self.recipe, self.classes, self.run.folder / "artefacts")

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.began


@contextmanager
def open_run(
    recipe: Recipe,
    out: Path,
    options: RunOptions,
    *,
    stored_recipe: Recipe | None = None,
    device: Device | None = None,
    make_executor: ExecutorFactory | None = None,
) -> Iterator[RunContext]:
    """Hold a run folder while its stages work.

    Args:
        recipe: what is done.
        out: the run folder, new or of an earlier run.
        options: how.
        stored_recipe: what is written into the folder as its recipe; None: ``recipe``.
        device: where files are measured; None: where recipe and options say.
        make_executor: makes what trains; None: as the options say, in this process alone.

    Raises:
        UsageError: The run folder cannot be used, or the options do not go together.
        UserError: Another process works in it; measurements cannot be read.
    """
    console, began = RunConsole(options.console), time.monotonic()
    make_executor = make_executor or make_run_executor(options, SINGLE_PROCESS)
    device = device or make_run_device(recipe, out, options)
    with Run(out, resolved_yaml(stored_recipe or recipe)) as run:
        yield RunContext(recipe, run, device, make_executor, console, began)


def make_run_executor(options: RunOptions, process_group: ProcessGroup) -> ExecutorFactory:
    """What trains a run's jobs; torch's threads are set here.

    Raises:
        UsageError: The engine is unknown, or does not go with torchrun.
        ImportError: Ray is not installed.
    """
    return make_executor_factory(
        options.engine, threads=options.threads, allow_code=options.allow_code, process_group=process_group
    )


def make_run_device(recipe: Recipe, out: Path, options: RunOptions, *, cache_only: bool = False) -> Device:
    """Where a run measures.

    Raises:
        UsageError: The host is not a host's name.
        UserError: Measurements cannot be read, or come from different devices.
    """
    return make_device(
        recipe.bench,
        out,
        measurements=options.measurements,
        python=options.python,
        energy=recipe.choice.max_joules is not None,
        cache_only=cache_only,
    )
