"""The pydantic models of ``crossval.json``; their JSON schema is published (docs/schemas/crossval.schema.json).

The docstrings of the models are the descriptions in that schema.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skd_bench.errors import UserError
from skd_bench.integrity.checked_files import DamagedFileError, read_checked_json
from skd_edge.report.schema import ClassMetrics

SCHEMA_VERSION = 1
CROSSVAL_FILE = "crossval.json"
Role = Literal["chosen", "teacher", "alone", "kd"]
ROLE_NAMES: dict[Role, str] = {
    "chosen": "skd-edge: the file chosen in each fold",
    "teacher": "teacher (FP32 file)",
    "alone": "the chosen student alone, weak labels (FP32 file)",
    "kd": "the chosen student with plain KD (FP32 file)",
}
ROLE_TITLES: dict[Role, str] = {
    "chosen": "Test, chosen",
    "teacher": "Test, teacher",
    "alone": "Test, alone",
    "kd": "Test, plain KD",
}
Bounds = tuple[float, float]


class _FrozenModel(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class PooledScore(_FrozenModel):
    """A kind of network on the test clips of all finished folds, each clip scored once, by the fold that tests it.

    Attributes:
        role: "chosen" (the file chosen in each fold), "teacher", "alone" or "kd" (controls of the chosen student).
        folds: Number of folds with such a network.
        n: Number of their test clips.
        accuracy: Share of correct clips, 0..1.
        accuracy_interval: 95 % interval, whole groups resampled.
        balanced_accuracy: Mean recall over classes, 0..1.
        balanced_interval: 95 % interval, whole groups resampled.
        macro_f1: Mean F1 over classes, 0..1.
        macro_f1_interval: 95 % interval, whole groups resampled.
        behind: By how many points the chosen files are more accurate on the same clips; None for "chosen".
        behind_interval: 95 % interval of that difference, in points.
    """

    role: Role
    folds: int
    n: int
    accuracy: float
    accuracy_interval: Bounds
    balanced_accuracy: float
    balanced_interval: Bounds
    macro_f1: float
    macro_f1_interval: Bounds
    behind: float | None = None
    behind_interval: Bounds | None = None


class FoldScore(_FrozenModel):
    """A network on the test clips of one fold.

    Attributes:
        role: As in `PooledScore`.
        accuracy: Share of correct clips, 0..1.
        balanced_accuracy: Mean recall over the classes that the test clips have, 0..1.
        macro_f1: Mean F1 over classes, 0..1.
    """

    role: Role
    accuracy: float
    balanced_accuracy: float
    macro_f1: float


class FoldReport(_FrozenModel):
    """One fold: a run of its own.

    Attributes:
        fold: Its number, from 1.
        folder: Its run folder, relative to the folder of crossval.json.
        state: "finished", or "failed".
        reason: Why it failed; empty otherwise.
        groups: The groups that it tests.
        train: Number of training clips; None where it failed before they were decoded.
        val: Number of validation clips.
        test: Number of test clips.
        chosen: The candidate that its validation clips selected; empty if none met the constraints.
        p50_ms: Median latency of the chosen file, milliseconds.
        p50_interval: 95 % interval of the median, milliseconds.
        bytes: Size of the chosen file.
        val_accuracy: Accuracy of the chosen file on the validation clips, 0..1.
        scores: The chosen file, the teacher and the controls on its test clips.
        looks: How many different files were scored on its test clips so far, on this machine.
        seconds: Wall time of the run of this fold.
    """

    fold: int
    folder: str
    state: Literal["finished", "failed"]
    reason: str = ""
    groups: list[str] = []
    train: int | None = None
    val: int | None = None
    test: int | None = None
    chosen: str = ""
    p50_ms: float | None = None
    p50_interval: Bounds | None = None
    bytes: int | None = None
    val_accuracy: float | None = None
    scores: list[FoldScore] = []
    looks: int | None = None
    seconds: float | None = None

    def find_score(self, role: Role) -> FoldScore | None:
        """The score of a kind of network; None if the fold has none."""
        return next((score for score in self.scores if score.role == role), None)


class CrossValidationReport(_FrozenModel):
    """The result of a cross-validation: the content of `crossval.json`.

    Attributes:
        schema_version: Version of this layout (the key "schema"); see `SCHEMA_VERSION`.
        kind: Always "crossval".
        name: Name of the recipe.
        created: Time of writing, ISO 8601, UTC.
        version: Version of skd-edge that wrote it.
        seed: Seed of the folds and of the runs.
        group: What belongs together: a column of the table, or a pattern in the clips' names.
        groups: Number of groups that are tested.
        clips: Number of clips that are tested, in all folds, as listed.
        classes: The class names.
        pooled: The figures over all finished folds.
        per_class: The classes, of the chosen files over all finished folds.
        confusion: Number of clips by true class (rows) and predicted class (columns), of the chosen files.
        folds: One entry for each fold.
        device: The device info; latencies of all folds were measured there.
        notes: Remarks.
        recipe: The resolved recipe, as YAML text.
    """

    schema_version: int = Field(SCHEMA_VERSION, alias="schema", ge=1)
    kind: Literal["crossval"] = "crossval"
    name: str
    created: str = ""
    version: str = ""
    seed: int = 0
    group: str = ""
    groups: int = 0
    clips: int = 0
    classes: list[str] = []
    pooled: list[PooledScore] = []
    per_class: list[ClassMetrics] = []
    confusion: list[list[int]] = []
    folds: list[FoldReport]
    device: dict[str, Any] = {}
    notes: list[str] = []
    recipe: str = ""

    @property
    def finished(self) -> list[FoldReport]:
        """The folds that are finished."""
        return [fold for fold in self.folds if fold.state == "finished"]

    def find_pooled(self, role: Role) -> PooledScore | None:
        """The pooled figures of a kind of network; None if no fold has one."""
        return next((row for row in self.pooled if row.role == role), None)


def load_crossval(folder: Path) -> CrossValidationReport:
    """Read the ``crossval.json`` of a folder.

    Raises:
        UserError: It is missing, not what was written, or of a newer version.
    """
    path = folder / CROSSVAL_FILE
    remedy = "run skd-edge crossval again, which writes it anew"
    try:
        raw = read_checked_json(path)
        if isinstance(raw.get("schema"), int) and raw["schema"] > SCHEMA_VERSION:
            raise UserError(f"{path} was written by a newer version of skd-edge; update skd-edge")
        return CrossValidationReport.model_validate(raw)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {remedy}") from None
    except (DamagedFileError, ValidationError) as error:
        raise UserError(f"{path} is not what skd-edge crossval wrote; {remedy}") from error
