"""What a teacher said, in a file: logits or probabilities by clip, for people who may not share the network.

An ``.npz`` holds ``clips`` (N names), ``logits`` or ``probabilities`` (N, C), and, where the order of the classes is
not the data's, ``classes`` (C names). A ``.parquet`` has a column ``clip`` and one column for each class; rows that sum
to 1 are probabilities. A clip is named by its path relative to the data's root, as in the run's ``labels/*.csv``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skd_bench.errors import UserError
from skd_edge.models.external.adapter_spec import match_class_columns

_MIN_PROBABILITY = 1e-6  # a probability of 0 is taken for this


@dataclass(frozen=True)
class LogitsFile:
    """A file of logits.

    Attributes:
        path: the file.
        row_by_clip: the place of each clip by its name.
        logits: ``(N, C)`` float32.
        classes: C names; empty: the data's own, in their order.
    """

    path: Path
    row_by_clip: dict[str, int]
    logits: NDArray[np.float32]
    classes: tuple[str, ...]

    def logits_for(self, clips: Sequence[str], classes: Sequence[str]) -> NDArray[np.float32]:
        """The logits of these clips ``(N, C)``, in the order of the data's classes.

        Raises:
            UserError: A clip is not in the file, or the class lists do not agree.
        """
        if missing := [name for name in clips if name not in self.row_by_clip]:
            raise UserError(
                f"teacher.logits {self.path} says nothing of {len(missing)} of {len(clips)} clips (first: "
                f"{missing[0]}); every training and validation clip needs a row, named by its path under the data's "
                f"root. The file names clips like {next(iter(self.row_by_clip), 'none')}"
            )
        if not self.classes and self.logits.shape[1] != len(classes):
            raise UserError(
                f"teacher.logits {self.path} tells {self.logits.shape[1]} classes apart and the data has "
                f"{len(classes)}; name them in the file ('classes') or in teacher.classes"
            )
        rows = self.logits[[self.row_by_clip[name] for name in clips]]
        return rows[:, match_class_columns(self.classes, classes)] if self.classes else rows


def read_logits_file(path: Path, classes: tuple[str, ...] = ()) -> LogitsFile:
    """Read a file of logits.

    Args:
        path: ``.npz`` or ``.parquet`` (needs pyarrow).
        classes: names of its columns, which count instead of the file's own.

    Raises:
        ImportError: pyarrow is not installed, and the file is a Parquet file.
        UserError: It cannot be read, or lacks or doubles something.
    """
    clips, values, has_probabilities, file_classes = (
        _read_parquet(path) if path.suffix == ".parquet" else _read_npz(path)
    )
    if values.ndim != 2 or len(values) != len(clips) or not len(clips) or values.shape[1] < 2:
        raise UserError(
            f"teacher.logits {path} has {len(clips)} clips and values {values.shape}; it must be one row "
            "a clip and one column a class"
        )
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values).all(1)).argmax())
        raise UserError(f"teacher.logits {path} has a value for {clips[bad]} that is not finite")
    row_by_clip = {name: i for i, name in enumerate(clips)}
    if len(row_by_clip) < len(clips):
        raise UserError(f"teacher.logits {path} names a clip twice, {next(n for n in clips if clips.count(n) > 1)}")
    names = classes or file_classes
    if names and len(names) != values.shape[1]:
        raise UserError(f"teacher.logits {path} has {values.shape[1]} columns and {len(names)} class names")
    if has_probabilities:
        if (values < 0).any() or np.abs(values.sum(1) - 1).max() > 1e-2:
            raise UserError(f"teacher.logits {path} has probabilities that are negative or do not sum to 1")
        values = np.log(np.maximum(values, _MIN_PROBABILITY))
    return LogitsFile(path, row_by_clip, values.astype(np.float32), names)


LogitsTable = tuple[
    list[str], NDArray[np.floating], bool, tuple[str, ...]
]  # clips, values, whether probabilities, classes


def _read_npz(path: Path) -> LogitsTable:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise UserError(
            f"teacher.logits {path} cannot be read as .npz: {str(error).splitlines()[0]}; strings must be "
            "numpy's own, not Python objects"
        ) from error
    kind = next((name for name in ("logits", "probabilities") if name in arrays), None)
    if kind is None or "clips" not in arrays:
        raise UserError(
            f"teacher.logits {path} holds {', '.join(arrays) or 'nothing'}; it must hold 'clips' (names) and 'logits' "
            "or 'probabilities' (clips, classes), and may hold 'classes' (names)"
        )
    names = tuple(str(name) for name in arrays.get("classes", ()))
    return [str(name) for name in arrays["clips"]], arrays[kind].astype(np.float64), kind == "probabilities", names


def _read_parquet(path: Path) -> LogitsTable:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        names = tuple(name for name in table.column_names if name != "clip")
        clips = [str(name) for name in table.column("clip").to_pylist()]
        values = np.stack([table.column(name).to_numpy().astype(np.float64) for name in names], 1)
    except (OSError, KeyError, ValueError, TypeError, pyarrow.ArrowException) as error:
        raise UserError(
            f"teacher.logits {path} cannot be read: {str(error).splitlines()[0]}; it must have a column "
            "'clip' and one column of numbers for each class"
        ) from error
    has_probabilities = bool((values >= 0).all() and np.abs(values.sum(1) - 1).max() < 1e-3)
    return clips, values, has_probabilities, names
