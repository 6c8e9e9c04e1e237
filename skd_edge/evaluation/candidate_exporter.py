"""Exports the networks of a recipe: with random weights for early benchmarks, and later with trained weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skd_bench.video.clip import normalise
from skd_bench.video.types import Preprocessing
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.evaluation.file_scorer import FileScorer
from skd_edge.labels.dataset import TrainingData
from skd_edge.models.builder import AnyNetwork, build_network
from skd_edge.models.mobilenet import MobileNet
from skd_edge.models.substages import LogitsOnly
from skd_edge.models.tsm import TSM
from skd_edge.recipe.schema import NetworkSpec, Recipe
from skd_edge.run_folder import open_cache
from skd_export.graph.graph_template import trace_ahead
from skd_export.graph.uint8_input import Uint8Input
from skd_export.verified_export import Calibration, ExportTarget, FileVerifier, export_verified

_NOISE_CLIPS, _CALIBRATION_BATCH = 8, 16
LogFunction = Callable[[str], None]


class CandidateExporter:
    """Exports the networks of a recipe to files.

    Networks with random weights are exported before any clips are decoded. Their INT8 files are calibrated with noise,
    because latency depends neither on the weights nor on the calibrated ranges.

    Args:
        recipe: its clip, seed and export settings are used.
        classes: class names, in the order of the logits.
        folder: the files of a network are written to a folder below this one, named after the network.
        int8_saturates: returns whether 8-bit weights can saturate on the device; INT8 files then get 7-bit weights.
        log: called with a line that states how much memory the calibration needs.
    """

    def __init__(
        self,
        recipe: Recipe,
        classes: tuple[str, ...],
        folder: Path,
        *,
        int8_saturates: Callable[[], bool] = lambda: False,
        log: LogFunction = lambda line: None,
    ) -> None:
        self.recipe, self.classes, self.folder = recipe, classes, folder
        self._int8_saturates, self._log = int8_saturates, log
        self._graph_cache = open_cache() / "graphs"
        _, self._preprocess = inference_preprocessing(recipe.clip)

    def build_untrained_network(self, network: NetworkSpec) -> AnyNetwork:
        """Build a network of the recipe with random weights, in eval mode; it is as fast as a trained one."""
        r, names = self.recipe, self.classes
        return build_network(network, classes=len(names), clip=r.clip, seed=r.seed, names=names).eval()

    def trace_ahead(self, networks: Sequence[AnyNetwork]) -> None:
        """Trace several networks for ONNX in parallel, so that exporting them one by one finds finished graphs."""
        deployed = [LogitsOnly(n).eval() for n in networks if isinstance(n, TSM | MobileNet)]
        trace_ahead(deployed, self._clip_shape, self._graph_cache)

    def export_untrained(self, network: AnyNetwork, name: str, precisions: tuple[str, ...]) -> dict[str, Path]:
        """Export a network with random weights; no clips are read.

        Args:
            network: in eval mode.
            name: name of the folder for its files.
            precisions: see `make_artefacts`.

        Returns:
            The file of each precision.

        Raises:
            UserError: See `make_artefacts`.
        """
        noise = Calibration(self._iter_noise_batches, f"noise:{_NOISE_CLIPS}", self._reduce_range)
        return export_verified(LogitsOnly(network).eval(), precisions, self._target(network, name), noise, None)

    def export_calibrated(
        self,
        network: AnyNetwork,
        name: str,
        precisions: tuple[str, ...],
        calibration: CalibrationClips,
        verifier: FileVerifier,
    ) -> dict[str, Path]:
        """Export a trained network; INT8 is calibrated on clips.

        Args:
            network: in eval mode.
            name: name of the folder for its files.
            precisions: see `make_artefacts`.
            calibration: the clips that determine the ranges of INT8.
            verifier: compares INT8 files with the network while they are made.

        Returns:
            The file of each precision.

        Raises:
            UserError: See `make_artefacts`.
        """
        clips = Calibration(partial(calibration.iter_batches, self._preprocess), calibration.key, self._reduce_range)
        target = self._target(network, name)
        return export_verified(LogitsOnly(network).eval(), precisions, target, clips, verifier, self._log)

    @property
    def _clip_shape(self) -> tuple[int, int, int]:
        return self.recipe.clip.frames, self.recipe.clip.size, self.recipe.clip.size

    @property
    def _reduce_range(self) -> bool | None:
        # None: whatever this machine needs. What the device needs is unknown until it has measured something.
        return True if self._int8_saturates() else None

    def _target(self, network: AnyNetwork, name: str) -> ExportTarget:
        export = self.recipe.export
        return ExportTarget(
            self.folder / name.replace(">", "+"),
            self._clip_shape,
            self.classes,
            # The key of a cached graph covers our own code only. A factory may call any code, so the graphs of its
            # networks are not shared between runs.
            graph_cache=self._graph_cache if isinstance(network, TSM | MobileNet) else None,
            uint8_input=Uint8Input(self._preprocess, export.frame_size) if export.contract == "frames" else None,
        )

    def _iter_noise_batches(self) -> Iterator[NDArray[np.float32]]:
        frames, height, width = self._clip_shape
        shape = (_NOISE_CLIPS, frames, height, width, 3)
        pixels = np.random.default_rng(self.recipe.seed).integers(0, 256, shape, np.uint8)
        yield normalise(pixels, self._preprocess)


@dataclass(frozen=True)
class CalibrationClips:
    """The training clips that determine the ranges of INT8 files; the recipe's seed selects them.

    Attributes:
        recipe: gives the number of clips, and the bounds that decide which layers stay in FP32.
        data: the clips and their weak labels.
    """

    recipe: Recipe
    data: TrainingData

    @property
    def count(self) -> int:
        """Number of clips."""
        return min(self.recipe.export.calibration_clips, len(self.data.clips.train))

    @property
    def key(self) -> str:
        """Identifies the clips and the bounds; a file that was made with another key is written again."""
        clips, export = self.data.clips, self.recipe.export
        bounds = f"{clips.val.hash}:{export.int8_agreement}:{export.int8_drop}"
        return f"{clips.train.hash}:{self.count}:{bounds}"

    @property
    def rows(self) -> NDArray[np.int64]:
        """Indices of the clips among the training clips, ``(count,)``, sorted."""
        rows = np.random.default_rng(self.recipe.seed).permutation(len(self.data.clips.train))
        return np.sort(rows[: self.count])

    def iter_batches(self, preprocess: Preprocessing) -> Iterator[NDArray[np.float32]]:
        """The clips in normalised batches, float32 ``(b, 3, T, H, W)``."""
        rows = self.rows
        for i in range(0, self.count, _CALIBRATION_BATCH):
            yield normalise(self.data.clips.train.clips[rows[i : i + _CALIBRATION_BATCH]], preprocess)

    def single_class_warning(self) -> str | None:
        """A warning if all labelled calibration clips have the same class: INT8 ranges then fit only that class."""
        weak, classes = self.data.given_labels[self.rows], self.data.clips.classes
        present = np.unique(weak[weak >= 0])
        if len(present) != 1 or len(classes) < 2:
            return None
        return (
            f"all {self.count} calibration clips are of class {classes[present[0]]!r}, so the INT8 ranges fit only "
            "that class; raise export.calibration_clips"
        )


@dataclass(frozen=True)
class TrainedExporter:
    """Exports trained networks: INT8 is calibrated on training clips and compared on validation clips.

    Attributes:
        exporter: writes the files.
        scorer: runs them on the validation clips.
        calibration: the calibration clips.
    """

    exporter: CandidateExporter
    scorer: FileScorer
    calibration: CalibrationClips

    def export(
        self, network: AnyNetwork, name: str, precisions: tuple[str, ...], reference: AnyNetwork | None = None
    ) -> dict[str, Path]:
        """Export one trained network.

        Args:
            network: in eval mode.
            name: name of the folder for its files.
            precisions: see `make_artefacts`.
            reference: the network that INT8 files are compared with; None: ``network`` itself.

        Returns:
            The file of each precision.

        Raises:
            UserError: See `make_artefacts`.
        """
        verifier = self.scorer.make_float_verifier(reference or network, self.calibration.data.clips.val)
        return self.exporter.export_calibrated(network, name, precisions, self.calibration, verifier)
