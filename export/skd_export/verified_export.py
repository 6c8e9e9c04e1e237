"""Export, calibrate, compare, verdict: a network's files, each compared with the network on the same clips.

This is the one way from a trained network to a file that may travel. The pipeline, quantisation-aware training, LiteRT
and ``skd-edge export`` differ in where their clips come from and in what keeps their logits; that is what a
`FileVerifier` is given.
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

from skd_export.analysis.parity import ParityBounds, compute_parity, find_violated_bound
from skd_export.exporter import QuantizationConfig, make_artefacts
from skd_export.graph.uint8_input import Uint8Input
from skd_export.quantization.calibration import Floats, LogFunction

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class VerifiedFile:
    """One file beside the network that it was made from.

    Attributes:
        path: the file.
        precision: ``fp32``, ``fp16``, ``int8`` or ``int8-trt``.
        runtime: what ran it.
        logits: ``(N, C)`` of the compared clips.
        parity: agreement, accuracy drop and distances; see `compute_parity`.
        rejection_reason: the bound that it violates, as a sentence; None where it is within all.
    """

    path: Path
    precision: str
    runtime: str
    logits: Floats
    parity: dict[str, Any]
    rejection_reason: str | None


class FileVerifier:
    """Compares files with the network that they were made from.

    Args:
        compute_reference: returns the network's own logits ``(N, C)`` of the compared clips; called once.
        compute_file_logits: ``(path, runtime)`` to the file's logits ``(N, C)`` of the same clips.
        labels: ``(N,)`` classes of these clips; None where they are unknown: then no drop of accuracy is known.
        bounds: how far a file may be from the network.
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
        """Run a file on the clips, and compare.

        Raises:
            UserError: The runtime cannot run it.
        """
        logits = self._compute_file_logits(path, runtime)
        parity = compute_parity(self._reference, logits, self._labels)
        reason = find_violated_bound(parity, precision, self._bounds)
        return VerifiedFile(path, precision, runtime, logits, parity, reason)

    def find_violation(self, path: Path, precision: str) -> str | None:
        """The bound that a file violates in ONNX Runtime, or None: what keeps costly layers in FP32 while quantising."""
        return self.verify(path, precision).rejection_reason


@dataclass(frozen=True)
class ExportTarget:
    """What the files of a network are, whatever their precision.

    Attributes:
        folder: where they are written, as ``<precision>.onnx``.
        clip_shape: ``(T, H, W)``.
        classes: names in the order of the logits.
        graph_cache: folder where traced graphs are shared between runs; None: every network is traced.
        uint8_input: the files take uint8 frames of this contract; None: they take normalised float clips.
    """

    folder: Path
    clip_shape: tuple[int, int, int]
    classes: Sequence[str]
    graph_cache: Path | None = None
    uint8_input: Uint8Input | None = None


@dataclass(frozen=True)
class Calibration:
    """Clips that set the ranges of INT8 files.

    Attributes:
        iter_batches: returns batches of normalised clips, float32 ``(b, 3, T, H, W)``.
        key: a hash of these clips and of what decides which layers stay in FP32: a file of another key is made again.
        reduce_range: whether weights have 7 bits; None: whatever this machine needs.
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
    """The files of a network; INT8 files are calibrated, and their costliest layers stay in FP32 while they violate a bound.

    Args:
        network: in eval mode, ``forward(clip) -> logits``.
        precisions: see `make_artefacts`.
        target: where the files go, and what they take.
        calibration: for INT8.
        verifier: compares INT8 files while they are made; None for a network whose answers do not matter (random
            weights).
        log: called with a line that states how much memory the calibration needs.

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
