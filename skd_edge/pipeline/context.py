"""`RunContext`, which every stage of a run takes: the run folder, the device, the executor and the console."""

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
from skd_edge.evaluation.devices import make_device
from skd_edge.evaluation.file_scorer import FileScorer
from skd_edge.evaluation.local_device import Device
from skd_edge.execution.executors import ExecutorFactory, ExecutorName, make_executor_factory
from skd_edge.pipeline.console import RunConsole
from skd_edge.recipe.loader import resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run, check_run_kind


@dataclass(frozen=True)
class RunOptions:
    """How a recipe is run; no option changes a result.

    Attributes:
        console: where progress is shown; None shows nothing.
        engine: where jobs are trained, see `make_executor_factory`.
        jobs: number of jobs that are trained at the same time on this machine, at most; None: as many as there are
            cores for.
        allow_code: whether the recipe's ``teacher.factory``, which is a third party's code, may run.
        measurements: result files of packs that ran on a device without a link. They are read and nothing is measured;
            see `OfflineDevice`.
        python: the Python command on ``bench.host``.
    """

    console: Console | None = None
    engine: ExecutorName = "local"
    jobs: int | None = None
    allow_code: bool = False
    measurements: tuple[Path, ...] = ()
    python: str = "python3"


@dataclass(frozen=True)
class RunContext:
    """A run folder that this process has locked, and what the stages need besides it.

    Attributes:
        recipe: the recipe as the user wrote it. Where it says ``auto``, `UntrainedBenchmark.recipe` lists the networks
            that were proposed.
        run: the run folder, locked.
        device: where files are measured.
        make_executor: makes the executor of the jobs; it needs the clips, which do not exist yet.
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
        """Class names in the order of the logits. No clip is decoded to find them.

        Raises:
            UserError: The data cannot be listed.
        """
        return list_classes(self.recipe, self.run.cache)

    @cached_property
    def exporter(self) -> CandidateExporter:
        """Exports networks into files of the run folder."""
        return CandidateExporter(
            self.recipe,
            self.classes,
            self.run.folder / "artefacts",
            int8_saturates=lambda: self.device.int8_saturates,
            log=self.console.log,
        )

    @cached_property
    def scorer(self) -> FileScorer:
        """Computes what exported files answer on clips, and their accuracy."""
        return FileScorer(self.recipe, self.classes, self.run.folder / "artefacts", self.device)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
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
    """Lock a run folder and yield the context of its stages; the lock is released at the end.

    Args:
        recipe: what to run.
        out: the run folder, new or of an earlier run.
        options: how to run it.
        stored_recipe: the recipe that is written into the folder; None: ``recipe``.
        device: where files are measured; None: the device that recipe and options name.
        make_executor: makes the executor of the jobs; None: the one that the options name, in a single process.

    Raises:
        UsageError: The run folder cannot be used or is a cross-validation, or the options contradict each other.
        UserError: Another process uses the run folder, or the measurements cannot be read.
    """
    console, began = RunConsole(options.console), time.monotonic()
    make_executor = make_executor or make_run_executor(recipe, options, SINGLE_PROCESS)
    device = device or make_run_device(recipe, out, options)
    stored = stored_recipe or recipe
    check_run_kind(out, crossval=False)
    with Run(out, resolved_yaml(stored), hide_values=stored.path_texts.hide_values) as run:
        ctx = RunContext(recipe, run, device, make_executor, console, began)
        try:
            yield ctx
        finally:
            ctx.scorer.discard_clips()


def make_run_executor(recipe: Recipe, options: RunOptions, process_group: ProcessGroup) -> ExecutorFactory:
    """The factory of the executor that trains a run's jobs. As a side effect it sets torch's number of threads.

    Raises:
        UsageError: The engine is unknown, or cannot be combined with torchrun.
        ImportError: Ray is not installed.
    """
    return make_executor_factory(
        options.engine,
        recipe.training.threads,
        most_jobs=options.jobs,
        allow_code=options.allow_code,
        process_group=process_group,
    )


def make_run_device(recipe: Recipe, out: Path, options: RunOptions, *, cache_only: bool = False) -> Device:
    """The device on which a run measures its files.

    Raises:
        UsageError: ``bench.host`` is not the name of a host.
        UserError: The measurements cannot be read, or come from different devices.
    """
    return make_device(
        recipe.bench,
        out,
        measurements=options.measurements,
        python=options.python,
        energy=recipe.choice.max_joules is not None,
        cache_only=cache_only,
    )
