"""What a runtime is: something that loads an artefact and answers clips with logits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt


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


@runtime_checkable
class Session(Protocol):
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

    def facts(self) -> dict[str, object]:
        """What somebody needs to get the same numbers again: runtime, version, threads, options. JSON can write it."""

    def close(self) -> None:
        """Give the memory back; the session answers no more. May be called twice."""


@runtime_checkable
class Runtime(Protocol):
    """A way to run artefacts on this machine."""

    @property
    def name(self) -> str:
        """As recipes and manifests call it."""

    def missing(self) -> str | None:
        """Why the runtime cannot be used here, with the pip line that helps; None when it can."""

    def version(self) -> str | None:
        """The version that would be used, read without importing it; None when it is missing."""

    def prepare(self) -> None:
        """Import what loading needs, so that the time it takes is not counted as loading an artefact."""

    def load(self, path: Path, *, threads: int) -> Session:
        """Load an artefact.

        Args:
            path: The file.
            threads: Threads that one query may use, at least 1.

        Raises:
            UserError: The file is missing or is nothing this runtime can run, or the runtime is missing.
        """
