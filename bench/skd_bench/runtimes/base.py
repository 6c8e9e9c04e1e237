"""The interfaces of runtimes and sessions, and the checks that all runtimes share."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from skd_bench.errors import UserError


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a loaded network.

    Attributes:
        name: Its name in the file.
        shape: The length of each axis; None where it may change from query to query.
        dtype: The numpy name of its type, such as "float32".
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


def check_clip(path: Path, spec: TensorSpec, x: npt.NDArray[Any]) -> None:
    """Check that an array fits a network's input.

    Args:
        path: The network's file, for the error message.
        spec: The network's input.
        x: The array.

    Raises:
        UserError: The shape or the dtype differs, or the array is empty; the message says what the file takes.
    """
    axes = x.ndim == len(spec.shape) and all(
        expected in (None, actual) for expected, actual in zip(spec.shape, x.shape, strict=True)
    )
    if not axes or x.dtype != np.dtype(spec.dtype) or x.size == 0:
        raise UserError(
            f"{path} takes {spec.dtype} {spec.shape}, not {x.dtype} {x.shape}; "
            "prepare the clip with the preprocessing in the bundle's manifest"
        )


def check_load_arguments(path: Path, threads: int) -> Path:
    """Check the arguments of `Runtime.load`, and return the path.

    Raises:
        UserError: The file does not exist, or `threads` is below 1.
    """
    if threads < 1:
        raise UserError(f"a session needs at least 1 thread, not {threads}")
    if not Path(path).is_file():
        raise UserError(f"the artefact {path} does not exist, or is not a file")
    return Path(path)


def check_logits(path: Path, spec: TensorSpec) -> None:
    """Check that a network's output can be logits.

    Args:
        path: The network's file, for the error message.
        spec: The network's output.

    Raises:
        UserError: It is not float32 (batch, classes) with a fixed number of classes.
    """
    if spec.dtype != "float32" or len(spec.shape) != 2:
        raise UserError(f"{path} returns {spec.dtype} {spec.shape}, but logits must be float32 (batch, classes)")
    if spec.shape[1] is None:
        raise UserError(f"{path} has a dynamic number of classes; export it with a fixed class axis")


def first_error_line(error: Exception) -> str:
    """The first line of an exception's message, or the name of its type where the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@runtime_checkable
class InferenceSession(Protocol):
    """A loaded network. Only one thread at a time may use it."""

    @property
    def input(self) -> TensorSpec:
        """The input clips: (B, 3, T, H, W)."""

    @property
    def output(self) -> TensorSpec:
        """The logits: (B, C)."""

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Compute the logits of one batch.

        Args:
            x: Clips with the shape and dtype of the input. A contiguous array may be read without a copy.

        Returns:
            float32 logits (B, C). Later queries do not overwrite this array.

        Raises:
            UserError: The array does not fit the input, the runtime fails, or the session is closed.
        """

    def runtime_info(self) -> dict[str, object]:
        """What is needed to reproduce a measurement, as a JSON object: runtime, version, threads, options."""

    def close(self) -> None:
        """Free the memory; later queries raise a `UserError`. May be called twice."""


@runtime_checkable
class TimedSession(Protocol):
    """A session on another device than the CPU, which can measure the transfers to the device and back."""

    def time_breakdown(self, x: npt.NDArray[Any]) -> dict[str, float]:
        """Run one batch and measure its parts with the device's own clock.

        Args:
            x: See `InferenceSession.run`.

        Returns:
            Milliseconds: `to_device_ms`, `compute_ms`, `from_device_ms`.

        Raises:
            UserError: See `InferenceSession.run`.
        """


@dataclass(frozen=True)
class CompileOptions:
    """How a runtime compiles an ONNX file; a runtime ignores what it does not have.

    Attributes:
        workspace_mib: Scratch memory on the device that a layer may use, MiB, at least 1.
        level: How long the compiler searches, 0 (shortest) to 5; None: its default.
        tf32: Whether FP32 products may use 10 bits of mantissa.
    """

    workspace_mib: int = 1024
    level: int | None = None
    tf32: bool = False

    @property
    def key(self) -> str:
        """Eight hexadecimal digits, equal for equal options."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]


@runtime_checkable
class CompilingRuntime(Protocol):
    """A runtime that runs engines: an ONNX file must be compiled where it shall run, before it can be loaded."""

    def compile(self, onnx: Path, folder: Path, options: CompileOptions) -> Path:
        """Compile an ONNX file for single clips on this machine, unless the folder has the engine already.

        Args:
            onnx: The file.
            folder: For engines of this device only; one folder may hold engines of many files and options.
            options: The compiler's options.

        Returns:
            The engine, which `Runtime.load` loads.

        Raises:
            UserError: The compiler cannot read or compile the file, or there is too little memory.
        """

    def fits(self, engine: Path) -> bool:
        """Whether an engine is whole, with its metadata beside it, and was compiled for this machine."""


@runtime_checkable
class Runtime(Protocol):
    """A way to run artefacts on this machine."""

    @property
    def name(self) -> str:
        """Its name in recipes and manifests."""

    def why_unavailable(self) -> str | None:
        """Why the runtime cannot be used here, with the pip command to install it; None when it can."""

    def version(self) -> str | None:
        """The installed version, read without importing the runtime; None when it is not installed."""

    def import_libraries(self) -> None:
        """Import the runtime's packages, so that a measurement of `load` does not include the import."""

    def load(self, path: Path, *, threads: int) -> InferenceSession:
        """Load an artefact.

        Args:
            path: The artefact's file.
            threads: Threads that a query may use, at least 1.

        Raises:
            UserError: The file does not exist, the runtime cannot run it, or the runtime is not available.
        """


def make_random_clip(session: InferenceSession) -> npt.NDArray[Any]:
    """A batch of noise with the shape and dtype of the network's input; dynamic axes have length 1."""
    shape, rng = [n or 1 for n in session.input.shape], np.random.default_rng(0)
    if session.input.dtype == "uint8":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.standard_normal(shape, dtype=np.float32).astype(session.input.dtype, copy=False)
