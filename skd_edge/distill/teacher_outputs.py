"""Teacher outputs on the training clips: computed once for each ``(teacher, clip, view)`` and read by every job.

Logits and pooled substage features are stored, but not feature maps, which would be too large. The files are in the
shared cache and are memory-mapped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skd_bench.errors import UserError
from skd_bench.files import write_atomic
from skd_bench.integrity.checked_files import (
    DamagedFileError,
    describe_files,
    read_and_check_files,
    report_damage,
    write_checked_json,
)
from skd_edge.models.substages import SubstageOutput
from skd_edge.run_files.work_lock import lock_work

_BATCH_SIZE = 128
_VIEW_FILE = "view.json"  # the checksums of a view's files; a view is complete if it exists
StoredArray = NDArray[np.float32] | NDArray[np.float16]


@dataclass(frozen=True)
class TeacherOutputs:
    """The outputs of a teacher for one view of the training clips, as stored.

    Attributes:
        logits: ``(N, C)``.
        features: For each substage k, ``(N, T, C_k)``.
    """

    logits: StoredArray
    features: list[StoredArray]

    def take_rows(self, index: NDArray[np.int64], device: torch.device) -> SubstageOutput:
        """The rows ``index (B,)`` as float32 tensors on ``device``."""
        features = [torch.from_numpy(f[index]).to(device).float() for f in self.features]
        return SubstageOutput(features, torch.from_numpy(self.logits[index]).to(device).float())


class TeacherOutputSource(ABC):
    """Teacher outputs by view of the training clips.

    Attributes:
        network: The teacher's network; None where the outputs come from a file.
    """

    network: nn.Module | None = None

    @abstractmethod
    def outputs_for_view(self, view: int) -> TeacherOutputs:
        """The outputs for all training clips in one view (a number from 0)."""

    def mean_probabilities(self, views: int) -> NDArray[np.float32]:
        """Class probabilities ``(N, C)``, mean over the views ``0 .. views - 1``."""
        per_view = [_softmax(self.outputs_for_view(v).logits) for v in range(views)]
        return np.asarray(np.mean(per_view, axis=0), np.float32)


class FixedTeacherOutputs(TeacherOutputSource):
    """Logits ``(N, C)`` from a file: those of the clips without augmentation, used for every view; no features."""

    def __init__(self, logits: NDArray[np.float32]) -> None:
        self.outputs = TeacherOutputs(logits, [])

    def outputs_for_view(self, view: int) -> TeacherOutputs:
        """The same outputs for every view."""
        return self.outputs


class TeacherOutputCache(TeacherOutputSource):
    """The outputs of a network on the training clips, computed when first needed and stored in a folder for each view.

    Args:
        network: The teacher, in evaluation mode.
        training_view: ``(index (B,), view) -> clips (B, 3, T, H, W)``: the views that learners are trained on.
        clip_count: N, the number of training clips.
        folder: Where outputs are stored. Its name must identify the teacher, the clips and the augmentation.
        half_precision: Store float16: half the disk space, with a relative rounding error of at most 1/2048.
        view_count: How many views will be needed, from view 0. While another process computes the view that is needed
            now, a later one is computed here.
    """

    def __init__(
        self,
        network: nn.Module,
        training_view: Callable[[NDArray[np.int64], int], Tensor],
        clip_count: int,
        folder: Path,
        *,
        half_precision: bool = False,
        view_count: int = 0,
    ) -> None:
        assert not network.training, "the teacher must be in evaluation mode"
        self.network: nn.Module
        self.network, self.training_view, self.clip_count = network, training_view, clip_count
        self.folder: Path = folder / "half" if half_precision else folder
        self.dtype: type[np.floating] = np.float16 if half_precision else np.float32
        self.view_count = view_count
        self._loaded_views: dict[int, TeacherOutputs] = {}

    def outputs_for_view(self, view: int) -> TeacherOutputs:
        """The outputs for all training clips in one view, from memory, from disk, or computed.

        Raises:
            UserError: The outputs were computed but cannot be read back from disk.
        """
        if view not in self._loaded_views:
            outputs = self._read_outputs(view)
            while outputs is None:
                outputs = self._compute_unless_locked(view)
                if outputs is None and not any(
                    self._compute_unless_locked(later)
                    for later in range(view + 1, self.view_count)
                    if not (self.folder / f"view{later}" / _VIEW_FILE).exists()
                ):
                    outputs = self._compute_unless_locked(view, wait=True)
            self._loaded_views[view] = outputs
        return self._loaded_views[view]

    def _compute_unless_locked(self, view: int, *, wait: bool = False) -> TeacherOutputs | None:
        """Compute and read the outputs of a view; None if another process computes them, which may be waited for."""
        folder = self.folder / f"view{view}"
        with lock_work(folder / ".lock", wait=wait) as locked:
            if not locked:
                return None
            if (outputs := self._read_outputs(view)) is None:  # the other process may have finished
                self._compute_outputs(folder, view)
                outputs = self._read_outputs(view)
        if outputs is None:
            raise UserError(f"the teacher outputs in {folder} cannot be read back; delete that folder and run again")
        return outputs

    def _read_outputs(self, view: int) -> TeacherOutputs | None:
        """The stored outputs, or None if they are missing or damaged; they are then computed again.

        The files are read whole and compared with their checksums: once for each view that a job reads.
        """
        folder = self.folder / f"view{view}"
        try:
            features = read_and_check_files(folder / _VIEW_FILE)["features"]
        except FileNotFoundError:
            return None
        except DamagedFileError as error:
            report_damage(error, "the teacher's outputs are computed again")
            return None
        outputs = TeacherOutputs(
            _open_memory_mapped(folder / "logits.npy"),
            [_open_memory_mapped(folder / _features_file(k)) for k in range(features)],
        )
        return outputs if {len(array) for array in (outputs.logits, *outputs.features)} == {self.clip_count} else None

    @torch.no_grad()
    def _compute_outputs(self, folder: Path, view: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        device = next(self.network.parameters(), torch.zeros(())).device  # an ONNX network has no parameters
        batch_outputs: list[SubstageOutput] = []
        for first in range(0, self.clip_count, _BATCH_SIZE):
            index = np.arange(first, min(first + _BATCH_SIZE, self.clip_count))
            output = self.network(self.training_view(index, view).to(device))
            batch_outputs.append(SubstageOutput(output.features, output.logits))  # without the feature maps
        features = len(batch_outputs[0].features)
        for k in range(features):
            _save_array(folder / _features_file(k), torch.cat([p.features[k] for p in batch_outputs]), self.dtype)
        _save_array(
            folder / "logits.npy", torch.cat([p.logits for p in batch_outputs if p.logits is not None]), self.dtype
        )
        files = ["logits.npy", *map(_features_file, range(features))]
        write_checked_json(folder / _VIEW_FILE, {"features": features, "files": describe_files(folder, files)})


def _features_file(substage: int) -> str:
    return f"features{substage}.npy"


def _save_array(path: Path, values: Tensor, dtype: type[np.floating]) -> None:
    largest = np.finfo(dtype).max
    buffer = BytesIO()
    np.save(buffer, values.float().cpu().numpy().clip(-largest, largest).astype(dtype, copy=False))
    write_atomic(path, buffer.getvalue())


def _open_memory_mapped(path: Path) -> StoredArray:
    array: StoredArray = np.load(path, mmap_mode="r")
    return array


def _softmax(stored: StoredArray) -> NDArray[np.float32]:
    logits = stored.astype(np.float32)
    e = np.exp(logits - logits.max(1, keepdims=True))
    p: NDArray[np.float32] = e / e.sum(1, keepdims=True)
    return p
