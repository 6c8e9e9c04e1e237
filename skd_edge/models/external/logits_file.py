"""Files with a teacher's logits or probabilities for each clip, for users who cannot share the network itself.

An ``.npz`` file contains ``clips`` (N names), ``logits`` or ``probabilities`` (N, C), and, if the classes are not in
the dataset's order, ``classes`` (C names). A ``.parquet`` file has a column ``clip`` and one column for each class; if
all rows sum to 1, they are probabilities. A clip's name is its path relative to ``data.root``, as in ``labels/*.csv``
of a run folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skd_bench.errors import UserError
from skd_bench.files import open_regular_file
from skd_bench.runtimes.base import first_error_line
from skd_edge.models.external.adapter_spec import match_class_columns

_MIN_PROBABILITY = 1e-6  # replaces smaller probabilities, because the logarithm of 0 is not finite


@dataclass(frozen=True)
class LogitsFile:
    """The contents of a file of logits.

    Attributes:
        path: the file.
        row_by_clip: the row of each clip, by the clip's name.
        logits: ``(N, C)``, float32.
        classes: C class names; empty: the dataset's classes, in order.
    """

    path: Path
    row_by_clip: dict[str, int]
    logits: NDArray[np.float32]
    classes: tuple[str, ...]

    def logits_for(self, clips: Sequence[str], classes: Sequence[str]) -> NDArray[np.float32]:
        """The logits of some clips, one column for each class of the dataset.

        Args:
            clips: names of the clips.
            classes: class names of the dataset.

        Returns:
            ``(len(clips), len(classes))``, float32.

        Raises:
            UserError: A clip is not in the file, or the class lists do not match.
        """
        if missing := [name for name in clips if name not in self.row_by_clip]:
            raise UserError(
                f"teacher.logits {self.path} has no row for {len(missing)} of {len(clips)} clips (first: "
                f"{missing[0]}); every training and validation clip needs a row, named by its path relative to "
                f"data.root. The first name in the file is {next(iter(self.row_by_clip), 'none')}"
            )
        if not self.classes and self.logits.shape[1] != len(classes):
            raise UserError(
                f"teacher.logits {self.path} has {self.logits.shape[1]} classes, but the dataset has {len(classes)}; "
                "name the file's classes in the file ('classes') or in teacher.classes"
            )
        rows = self.logits[[self.row_by_clip[name] for name in clips]]
        return rows[:, match_class_columns(self.classes, classes)] if self.classes else rows


def read_logits_file(path: Path, classes: tuple[str, ...] = ()) -> LogitsFile:
    """Read a file of logits.

    Args:
        path: ``.npz`` or ``.parquet`` (needs pyarrow).
        classes: names of the columns of logits; they replace the names in the file.

    Raises:
        ImportError: The file is a Parquet file, and pyarrow is not installed.
        UserError: The file cannot be read, lacks something, names a clip twice, or contains values that cannot be used.
    """
    clips, values, has_probabilities, file_classes = (
        _read_parquet(path) if path.suffix == ".parquet" else _read_npz(path)
    )
    if values.ndim != 2 or len(values) != len(clips) or not len(clips) or values.shape[1] < 2:
        raise UserError(
            f"teacher.logits {path} has {len(clips)} clips and values of the shape {values.shape}; there must be one "
            "row for each clip and one column for each class"
        )
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values).all(1)).argmax())
        raise UserError(f"teacher.logits {path} has a value for {clips[bad]} that is not a finite number; correct it")
    row_by_clip = {name: i for i, name in enumerate(clips)}
    if len(row_by_clip) < len(clips):
        twice = next(n for n in clips if clips.count(n) > 1)
        raise UserError(f"teacher.logits {path} names the clip {twice} twice; keep one row for each clip")
    names = classes or file_classes
    if names and len(names) != values.shape[1]:
        raise UserError(
            f"teacher.logits {path} has {values.shape[1]} columns, but {len(names)} class names; name every column"
        )
    if has_probabilities:
        if (values < 0).any() or np.abs(values.sum(1) - 1).max() > 1e-2:
            raise UserError(
                f"teacher.logits {path} has probabilities that are negative or do not sum to 1; normalise each row"
            )
        values = np.log(np.maximum(values, _MIN_PROBABILITY))
    return LogitsFile(path, row_by_clip, values.astype(np.float32), names)


# Clip names, values, whether the values are probabilities, class names.
LogitsTable = tuple[list[str], NDArray[np.floating], bool, tuple[str, ...]]


def _read_npz(path: Path) -> LogitsTable:
    try:
        with open_regular_file(path) as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # what numpy, zipfile and zlib raise for a damaged file depends on the byte
        raise UserError(
            f"teacher.logits {path} cannot be read as .npz: {first_error_line(error)}; names must be stored as "
            "numpy strings, not as Python objects"
        ) from error
    kind = next((name for name in ("logits", "probabilities") if name in arrays), None)
    if kind is None or "clips" not in arrays:
        raise UserError(
            f"teacher.logits {path} contains {', '.join(arrays) or 'nothing'}; it must contain 'clips' (names) and "
            "'logits' or 'probabilities' (clips, classes), and may contain 'classes' (names)"
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
