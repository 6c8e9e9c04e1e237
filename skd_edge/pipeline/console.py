"""Progress output of a run: a line for every finished step, and live lines for the current work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from skd_bench.untrusted.text import escape_name

if TYPE_CHECKING:
    from skd_edge.distill.trainer import TrainingProgress
    from skd_edge.execution.job_graph import TrainingJob
    from skd_edge.execution.job_results import JobResult


class RunConsole:
    """Progress on a rich console. Where that is not a terminal (a log file), only finished steps are printed.

    Args:
        console: where to write; None writes nothing.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(quiet=True)
        self.started = time.monotonic()

    def log(self, text: str) -> None:
        """Print a finished step, with the time since the start in front of it."""
        spent = time.monotonic() - self.started
        # As Text, and not as markup: a name such as "[red]" is only a name.
        line = Text.assemble((f"{_format_elapsed(spent):>6}", "dim"), f"  {escape_name(text)}")
        self.console.print(line, highlight=False, soft_wrap=True)

    @contextmanager
    def progress_bar(self, title: str, total: float = 1.0) -> Iterator[ProgressBar]:
        """A live progress bar, removed at the end. ``total`` is the amount of work, in the unit of its updates."""
        columns = (
            TextColumn("        {task.description}", markup=False),
            BarColumn(24),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(compact=True),
        )
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            yield ProgressBar(progress, progress.add_task(title, total=total, note=""))


class ProgressBar:
    """A live line of progress."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def add_line(self, title: str, total: float) -> ProgressBar:
        """Another line below; ``total`` is its amount of work."""
        return ProgressBar(self._progress, self._progress.add_task(escape_name(title), total=total, note=""))

    def remove(self) -> None:
        """Remove the line."""
        self._progress.remove_task(self._task)

    def update(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` items are finished."""
        self._progress.update(self._task, completed=done, total=total, note=f"{done}/{total}")

    def update_note(self, done: float, note: str) -> None:
        """Show how much of the total is done, and a note."""
        self._progress.update(self._task, completed=done, note=escape_name(note))


class JobProgress:
    """The live lines while jobs are trained: one for all jobs, with the time left, and one for each job in training.

    The line of a job has its epoch, loss terms and accuracy. For the time left, every epoch counts the same, whatever
    the network.
    """

    def __init__(self, console: RunConsole, jobs: list[TrainingJob]) -> None:
        self.console, self.jobs = console, jobs
        self._bar_context = console.progress_bar("training", total=sum(job.spec.epochs for job in jobs))
        self._finished_jobs, self._finished_epochs = 0, 0
        self._epochs_by_job, self._notes_by_job = dict[str, float](), dict[str, str]()
        self._bars_by_job = dict[str, ProgressBar]()

    def __enter__(self) -> JobProgress:
        self._bar = self._bar_context.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar_context.__exit__(*error)

    def update_job(self, job: TrainingJob, row: TrainingProgress) -> None:
        """Show the progress of a job that is being trained; ``row`` is empty when the job begins."""
        if job.hash not in self._bars_by_job:
            self._bars_by_job[job.hash] = self._bar.add_line(self._format_job_title(job), job.spec.epochs)
        self._epochs_by_job.setdefault(job.hash, 0.0)
        note, prefix = self._notes_by_job.get(job.hash, "starting"), ""
        if "note" in row:
            self.console.log(f"{self._format_job_title(job)}: {row['note']}")
        if "terms" in row:
            terms = " ".join(f"{name} {value:.2f}" for name, value in row["terms"].items())
            accuracy = "" if row["accuracy"] is None else f" | accuracy {row['accuracy']:.1%}"
            note = self._notes_by_job[job.hash] = f"{terms}{accuracy}"
        if row:
            self._epochs_by_job[job.hash] = row["epoch"] - 1 + row["share"]
            prefix = f"epoch {row['epoch']}/{row['epochs']} | "
        self._bars_by_job[job.hash].update_note(self._epochs_by_job[job.hash], prefix + note)
        self._update_total()

    def finish_job(self, job_result: JobResult) -> None:
        """Print a line for a finished job, and count its epochs as done."""
        self._epochs_by_job.pop(job_result.job.hash, None)
        if bar := self._bars_by_job.pop(job_result.job.hash, None):
            bar.remove()
        self._finished_epochs += job_result.job.spec.epochs
        self._finished_jobs += 1
        self._update_total()
        how = "cached" if job_result.cached else f"{job_result.seconds:.0f} s"
        self.console.log(
            f"{self._format_job_title(job_result.job)}: {job_result.accuracy:.1%} ({how}, {job_result.job.hash})"
        )

    def _update_total(self) -> None:
        done = self._finished_epochs + sum(self._epochs_by_job.values())
        self._bar.update_note(done, f"{self._finished_jobs}/{len(self.jobs)} jobs")

    def _format_job_title(self, job: TrainingJob) -> str:
        return f"job {self.jobs.index(job) + 1}/{len(self.jobs)} {_format_job_name(job)}"


def _format_job_name(job: TrainingJob) -> str:
    is_retrained = job.start is not None
    names = {
        "scout": "teacher, on better labels" if is_retrained else "first teacher, on the weak labels",
        "alone": "control without the method",
        "kd": "control, plain KD",
    }
    return f"{job.spec.name} ({names.get(job.spec.role, job.spec.role)})"


def _format_elapsed(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
