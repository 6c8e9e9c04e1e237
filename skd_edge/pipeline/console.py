"""What a person sees while a run works: one line a stage on the page, one live line for what is going on now."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from skd_edge.execution.job_graph import Node
    from skd_edge.execution.local_executor import Finished


class Screen:
    """Progress on a rich console; where that is no terminal (a log file), finished stages only.

    Args:
        console: where to write; None is silent.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(quiet=True)
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        """A finished step, kept on the page with the time since the start."""
        spent = time.monotonic() - self.began
        self.console.print(f"[dim]{_clock(spent):>6}[/dim]  {text}", highlight=False, soft_wrap=True)

    @contextmanager
    def stage(self, title: str, total: float = 1.0) -> Iterator[Bar]:
        """A live bar for work that takes a while."""
        columns = (TextColumn("        {task.description}"), BarColumn(24), TextColumn("{task.fields[note]}"),
                   TimeRemainingColumn(compact=True))  # fmt: skip
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            yield Bar(progress, progress.add_task(title, total=total, note=""))


class Bar:
    """One live line."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def count(self, done: int, total: int) -> None:
        """``done`` of ``total`` things are finished."""
        self._progress.update(self._task, completed=done, total=total, note=f"{done}/{total}")

    def show(self, title: str, done: float, total: float, note: str) -> None:
        """Change everything about the line at once."""
        self._progress.update(self._task, description=title, completed=done, total=total, note=note)


class LegProgress:
    """The live line of the tree's legs: the one with the latest news, its epoch, loss terms, accuracy; time left.

    Several legs may be trained at a time. Time left is that of all legs, and counts epochs, whatever their network.
    """

    def __init__(self, screen: Screen, tree: list[Node]) -> None:
        self.screen, self.tree = screen, tree
        self._total = sum(n.leg.epochs for n in tree)
        self._stage = screen.stage("training", total=self._total)
        self._done, self._epochs, self._notes = 0, dict[str, float](), dict[str, str]()

    def __enter__(self) -> LegProgress:
        self._bar = self._stage.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stage.__exit__(*error)

    def row(self, node: Node, row: dict[str, Any]) -> None:
        """News of a leg that is being trained; an empty row when it begins."""
        self._epochs.setdefault(node.hash, 0.0)
        note, prefix = self._notes.get(node.hash, "starting"), ""
        if "note" in row:
            self.screen.say(f"{self._title(node)}: {row['note']}")
        if "terms" in row:
            terms = " ".join(f"{name} {value:.2f}" for name, value in row["terms"].items())
            accuracy = "" if row["accuracy"] is None else f" | accuracy {row['accuracy']:.1%}"
            note = self._notes[node.hash] = f"{terms}{accuracy}"
        if row:
            self._epochs[node.hash] = row["epoch"] - 1 + row["share"]
            prefix = f"epoch {row['epoch']}/{row['epochs']} | "
        others = f" and {len(self._epochs) - 1} more" if len(self._epochs) > 1 else ""
        at = self._done + sum(self._epochs.values())
        self._bar.show(self._title(node) + others, at, self._total, prefix + note)

    def end(self, leg: Finished) -> None:
        """A leg is finished: it stays on the page."""
        self._epochs.pop(leg.node.hash, None)
        self._done += leg.node.leg.epochs
        how = "cached" if leg.cached else f"{leg.seconds:.0f} s"
        self.screen.say(f"{self._title(leg.node)}: {leg.accuracy:.1%} ({how}, {leg.node.hash})")

    def _title(self, node: Node) -> str:
        return f"leg {self.tree.index(node) + 1}/{len(self.tree)} {_role(node)}"


def _role(node: Node) -> str:
    again = node.start is not None
    names = {
        "scout": "teacher, on better labels" if again else "first teacher, on the weak labels",
        "alone": "control without the method",
        "kd": "control, plain KD",
    }
    return f"{node.leg.name} ({names.get(node.leg.role, node.leg.role)})"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
