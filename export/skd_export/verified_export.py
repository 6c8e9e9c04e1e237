"""Exports the files of a network, and compares each file with the network on the same clips.

Every file that goes into a bundle is verified here. The pipeline, quantisation-aware training, LiteRT and
``skd-edge export`` use other clips and store logits in other ways; they pass these differences to a `FileVerifier`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from skd_export.analysis.parity import ParityBounds, ParityMetrics, compute_parity, find_violated_bound
from skd_export.exporter import QuantizationConfig, make_artefacts
from skd_export.graph.uint8_input import Uint8Input
from skd_export.quantization.calibration import Floats, LogFunction

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class VerifiedFile:
    """A file, compared with the network that it was made from.

    Attributes:
        path: The file.
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8``, ``int8-trt`` or ``fp8``.
        runtime: The name of the runtime that computed the logits.
        logits: ``(N, C)`` for the compared clips.
        parity: Agreement, accuracy drop and differences.
        rejection_reason: The bound that the file violates, as a sentence; None if it is within all bounds.
    """

    path: Path
    precision: str
    runtime: str
    logits: Floats
    parity: ParityMetrics
    rejection_reason: str | None


class FileVerifier:
    """Compares files with the network that they were made from.

    Args:
        compute_reference: Returns the network's logits ``(N, C)`` for the compared clips. Called at most once, when
            the first file is verified.
        compute_file_logits: Called with a file and the name of a runtime; returns the file's logits ``(N, C)`` for the
            same clips.
        labels: Class indices ``(N,)`` of these clips; None if they are unknown (there is no accuracy drop then).
        bounds: How far a file may be from the network.
    """

    def __init__(
        self,
        compute_reference: Callable[[], Floats],
        compute_file_logits: Callable[[Path, str], Floats],
        labels: Ints | None,
        bounds: ParityBounds,
    ) -> None:
        self._compute_reference, self._compute_file_logits = compute_reference, compute_file_logits
        self._labels, self._bounds = labels, bounds

    @cached_property
    def _reference(self) -> Floats:
        return self._compute_reference()

    def verify(self, path: Path, precision: str, runtime: str = "ort") -> VerifiedFile:
        """Run a file on the clips, and compare it with the network.

        Args:
            path: The file.
            precision: Decides which bounds apply.
            runtime: The name of the runtime to use.

        Raises:
            UserError: The runtime cannot run the file, or its logits cannot be compared.
        """
        logits = self._compute_file_logits(path, runtime)
        parity = compute_parity(self._reference, logits, self._labels)
        reason = find_violated_bound(parity, precision, self._bounds)
        return VerifiedFile(path, precision, runtime, logits, parity, reason)

    def find_violation(self, path: Path, precision: str) -> str | None:
        """The bound that a file violates on ONNX Runtime, or None; see `QuantizationConfig.find_violation`."""
        return self.verify(path, precision).rejection_reason


@dataclass(frozen=True)
class ExportTarget:
    """What the files of a network have in common at all precisions.

    Attributes:
        folder: Where they are written, as ``<precision>.onnx``.
        clip_shape: ``(T, H, W)``.
        classes: Class names in the order of the logits.
        graph_cache: Folder where traced graphs are shared between runs; None: each process traces once.
        uint8_input: The files take uint8 frames of this contract; None: they take normalised float clips.
    """

    folder: Path
    clip_shape: tuple[int, int, int]
    classes: Sequence[str]
    graph_cache: Path | None = None
    uint8_input: Uint8Input | None = None


@dataclass(frozen=True)
class Calibration:
    """The clips that determine the ranges of INT8 files.

    Attributes:
        iter_batches: Returns batches of normalised clips, float32 ``(b, 3, T, H, W)``.
        key: A hash of these clips and of everything that decides which layers stay in FP32. A file with another key is
            written again.
        reduce_range: Whether weights have 7 bits; None: whatever this machine needs.
    """

    iter_batches: Callable[[], Any]
    key: str
    reduce_range: bool | None = None


def export_verified(
    network: nn.Module,
    precisions: Sequence[str],
    target: ExportTarget,
    calibration: Calibration,
    verifier: FileVerifier | None,
    log: LogFunction = lambda line: None,
) -> dict[str, Path]:
    """Export the files of a network; while an INT8 file violates a bound, its most sensitive layers stay in FP32.

    Args:
        network: In eval mode, ``forward(clip) -> logits``.
        precisions: See `make_artefacts`.
        target: Where the files go, and what input they take.
        calibration: Calibration clips for INT8; not read if no INT8 file has to be written.
        verifier: Compares INT8 files while they are made; None for a network whose logits do not matter (random
            weights).
        log: Called with a line that states how much memory the calibration needs.

    Returns:
        The path of each precision, in the requested order.

    Raises:
        UserError: See `make_artefacts`.
    """
    find_violation = verifier.find_violation if verifier else lambda path, precision: None
    quantization = QuantizationConfig(
        calibration.iter_batches,
        calibration.key,
        reduce_range=calibration.reduce_range,
        find_violation=find_violation,
        log=log,
    )
    return make_artefacts(
        network,
        precisions,
        target.folder,
        clip_shape=target.clip_shape,
        classes=list(target.classes),
        quantization=quantization,
        graph_cache=target.graph_cache,
        uint8_input=target.uint8_input,
    )
