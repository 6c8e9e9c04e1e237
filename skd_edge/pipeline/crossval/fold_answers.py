"""What the networks of one fold answer on its test clips: a file in the fold's run folder, written last."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skd_bench.files import sha256_file
from skd_bench.integrity.checked_files import DamagedFileError, read_checked_json, report_damage, write_checked_json
from skd_edge.recipe.loader import resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.report.schema import REPORT_FILE

if TYPE_CHECKING:
    from skd_edge.pipeline.context import RunContext
    from skd_edge.pipeline.results import RunResult

ANSWERS_FILE = "test_answers.json"


@dataclass(frozen=True)
class FoldAnswers:
    """The answers on the N test clips of one fold.

    Attributes:
        clips: names of the clips.
        labels: ``(N,)`` class indices.
        answers: ``(N,)`` predicted classes by role: ``chosen``, ``teacher``, ``alone``, ``kd``.
    """

    clips: tuple[str, ...]
    labels: NDArray[np.int64]
    answers: dict[str, NDArray[np.int64]]


def hash_recipe(recipe: Recipe) -> str:
    """SHA-256 of the resolved recipe; a fold whose recipe has another one is run again."""
    return hashlib.sha256(resolved_yaml(recipe).encode()).hexdigest()


def write_fold_answers(ctx: RunContext, result: RunResult) -> Path:
    """Write the answers of the networks that `confirm_on_test` scored; none where no candidate was chosen."""
    test = result.test
    content = {
        "recipe": hash_recipe(ctx.recipe),
        "report": sha256_file(ctx.run.folder / REPORT_FILE),
        "clips": list(test.clips) if test else [],
        "labels": test.labels.tolist() if test else [],
        "answers": {role: predicted.tolist() for role, predicted in test.answers.items()} if test else {},
    }
    return write_checked_json(ctx.run.folder / ANSWERS_FILE, content)


def read_fold_answers(folder: Path, recipe: Recipe) -> FoldAnswers | None:
    """The answers of a finished fold; None if it is not finished, or was run with other settings.

    Args:
        folder: the fold's run folder.
        recipe: the recipe that the fold should have.
    """
    try:
        stored = read_checked_json(folder / ANSWERS_FILE)
        if stored["recipe"] != hash_recipe(recipe) or stored["report"] != sha256_file(folder / REPORT_FILE):
            return None
    except (FileNotFoundError, KeyError):
        return None
    except DamagedFileError as error:
        report_damage(error, "the fold is run again, from its finished jobs")
        return None
    return FoldAnswers(
        tuple(stored["clips"]),
        np.array(stored["labels"], np.int64),
        {role: np.array(predicted, np.int64) for role, predicted in stored["answers"].items()},
    )
