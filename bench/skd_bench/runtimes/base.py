"""What a runtime is: something that loads an artefact and answers clips with logits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from skd_bench.errors import UserError


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a loaded network.

    Attributes:
        name: As the file calls it.
        shape: One entry for each axis; None where the length may change from query to query.
        dtype: A numpy name, such as "float32".
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


def check_clip(path: Path, spec: TensorSpec, x: npt.NDArray[Any]) -> None:
    """Refuse an array that does not fit a network's input.

    Raises:
        UserError: Its axes or its dtype differ, or it is empty; says what the file takes.
    """
    axes = x.ndim == len(spec.shape) and all(
        expected in (None, actual) for expected, actual in zip(spec.shape, x.shape, strict=True)
    )
    if not axes or x.dtype != np.dtype(spec.dtype) or x.size == 0:
        raise UserError(
            f"{path} takes {spec.dtype} {spec.shape}, not {x.dtype} {x.shape}; "
            "prepare the clip with the preprocessing of the artefact's manifest"
        )


def check_load_arguments(path: Path, threads: int) -> Path:
    """What every `load` checks first.

    Raises:
        UserError: There is no such file, or a query may use no thread.
    """
    if threads < 1:
        raise UserError(f"a session needs at least 1 thread, not {threads}")
    if not Path(path).is_file():
        raise UserError(f"there is no artefact {path}")
    return Path(path)


def check_logits(path: Path, spec: TensorSpec) -> None:
    """Refuse a network whose output is no logits.

    Raises:
        UserError: They are not float32 (batch, classes) with a fixed number of classes.
    """
    if spec.dtype != "float32" or len(spec.shape) != 2:
        raise UserError(f"{path} gives {spec.dtype} {spec.shape}; logits are float32 (batch, classes)")
    if spec.shape[1] is None:
        raise UserError(f"{path} does not say how many classes it has; export it with a fixed class axis")


def first_error_line(error: Exception) -> str:
    """The first line of what a runtime's own exception says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@runtime_checkable
class InferenceSession(Protocol):
    """A loaded network, ready for queries, used by one thread at a time."""

    @property
    def input(self) -> TensorSpec:
        """The clip: (B, 3, T, H, W)."""

    @property
    def output(self) -> TensorSpec:
        """The logits: (B, C)."""

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Answer one batch.

        Args:
            x: Of the input's shape and dtype. It is read where it lies, without a copy, if it is contiguous.

        Returns:
            float32 logits (B, C): the caller's own, never overwritten by a later query.

        Raises:
            UserError: The array does not fit the input, or the runtime fails on it.
        """

    def runtime_info(self) -> dict[str, object]:
        """What somebody needs to get the same numbers again: runtime, version, threads, options. JSON can write it."""

    def close(self) -> None:
        """Give the memory back; the session answers no more. May be called twice."""


@runtime_checkable
class TimedSession(Protocol):
    """A session on another device than the CPU: it can say how long the ways there and back take."""

    def time_breakdown(self, x: npt.NDArray[Any]) -> dict[str, float]:
        """Answer one batch and time its parts on the device's own clock: milliseconds.

        Returns:
            `to_device_ms`, `compute_ms`, `from_device_ms`.

        Raises:
            UserError: As `Session.run`.
        """


@runtime_checkable
class Runtime(Protocol):
    """A way to run artefacts on this machine."""

    @property
    def name(self) -> str:
        """As recipes and manifests call it."""

    def why_unavailable(self) -> str | None:
        """Why the runtime cannot be used here, with the pip line that helps; None when it can."""

    def version(self) -> str | None:
        """The version that would be used, read without importing it; None when it is missing."""

    def import_libraries(self) -> None:
        """Import what loading needs, so that the time it takes is not counted as loading an artefact."""

    def load(self, path: Path, *, threads: int) -> InferenceSession:
        """Load an artefact.

        Args:
            path: The file.
            threads: Threads that one query may use, at least 1.

        Raises:
            UserError: The file is missing or is nothing this runtime can run, or the runtime is missing.
        """


def make_random_clip(session: InferenceSession) -> npt.NDArray[Any]:
    """One clip (the batch of the file, where that is fixed) of noise, as the network takes it."""
    shape, rng = [n or 1 for n in session.input.shape], np.random.default_rng(0)
    if session.input.dtype == "uint8":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.standard_normal(shape, dtype=np.float32).astype(session.input.dtype, copy=False)
