"""One leg over several processes: ``torchrun --nproc-per-node 2 -m skd_edge.cli compress recipe.yaml``.

The first process does all that a run does, and tells the others of each leg that is to be learnt; they open the same
clips, teachers and labels (one file system) and train their part of every batch. A run that stops takes them along:
torchrun ends every process when one fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skd_edge.distill.distributed import Team
from skd_edge.distill.trainer import Trained
from skd_edge.execution.job_graph import Node
from skd_edge.execution.local_executor import LocalEngine
from skd_edge.labels.dataset import Material, deployed_view, gather
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run, RunFolder, cache_root


class TeamEngine(LocalEngine):
    """Trains the nodes of a tree in order, each with the whole team; in the first of its processes.

    Args:
        recipe: the recipe.
        run: the run folder, on a file system that all processes share.
        material: clips and weak labels.
        team: the processes.
    """

    def __init__(self, recipe: Recipe, run: Run, material: Material, team: Team) -> None:
        super().__init__(run, material, recipe.labels, deployed_view(recipe.clip)[1])
        self.team = team

    def _learn(self, node: Node) -> Trained:
        self.team.tell(node)
        return super()._learn(node)


class _Guest(RunFolder):
    """A run that the first process holds and keeps the journal of."""

    def journal(self, event: str, **facts: Any) -> None:
        """The first process writes it."""


def help_out(team: Team, recipe: Recipe, folder: Path) -> None:
    """What every process but the first does: learn along, until it is told that nothing is left."""
    engine: LocalEngine | None = None
    while (node := team.tell(None)) is not None:
        if engine is None:  # the clips are decoded when the first process speaks of a leg
            guest = _Guest(folder, cache_root())
            engine = LocalEngine(guest, gather(recipe, guest.cache), recipe.labels, deployed_view(recipe.clip)[1])
            engine.team = team
        engine._learn(node)
