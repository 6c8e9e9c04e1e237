"""What a teacher says, kept by view: computed once for each ``(teacher, clip, view)``, read by every leg.

Kept are logits and pooled substage features, never maps; the files lie in the shared cache, memory-mapped.
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
from skd_edge.models.substages import Staged

_BATCH = 128
Stored = NDArray[np.float32] | NDArray[np.float16]


@dataclass(frozen=True)
class Said:
    """One view of the training clips through a teacher: ``logits (N, C)``, ``features[k] (N, T, C_k)``, as stored."""

    logits: Stored
    features: list[Stored]

    def rows(self, index: NDArray[np.int64], device: torch.device) -> Staged:
        """The rows ``index (B,)`` as tensors, as if the teacher had just been asked."""
        features = [torch.from_numpy(f[index]).to(device).float() for f in self.features]
        return Staged(features, torch.from_numpy(self.logits[index]).to(device).float())


class Answers(ABC):
    """What a teacher says of the training clips, view by view.

    Attributes:
        network: the teacher, where it is one.
    """

    network: nn.Module | None = None

    @abstractmethod
    def view(self, view: int) -> Said:
        """All training clips of one view."""

    def probabilities(self, views: int) -> NDArray[np.float32]:
        """Class probabilities ``(N, C)``, the mean over this many views."""
        voices = [_softmax(self.view(v).logits) for v in range(views)]
        return np.asarray(np.mean(voices, axis=0), np.float32)


class ToldAnswers(Answers):
    """Answers from a file: of the plain clips, whatever the view; logits ``(N, C)`` alone, no substages."""

    def __init__(self, logits: NDArray[np.float32]) -> None:
        self.said = Said(logits, [])

    def view(self, view: int) -> Said:
        """The same for every view."""
        return self.said


class TeacherCache(Answers):
    """A network's answers about the training clips, one folder for each view.

    Args:
        network: the teacher, in evaluation mode.
        view_of: ``(index (B,), view) -> clips (B, 3, T, H, W)``: the same views that learners see.
        count: N, the number of training clips.
        folder: where answers are kept; named by the teacher, the clips and the augmentation.
        half: keep them in half precision: half the disk, answers rounded by up to a 2048th of themselves.
    """

    def __init__(
        self,
        network: nn.Module,
        view_of: Callable[[NDArray[np.int64], int], Tensor],
        count: int,
        folder: Path,
        *,
        half: bool = False,
    ) -> None:
        assert not network.training, "a teacher answers in evaluation mode"
        self.network: nn.Module
        self.network, self.view_of, self.count = network, view_of, count
        self.folder: Path = folder / "half" if half else folder
        self.dtype: type[np.floating] = np.float16 if half else np.float32
        self._open: dict[int, Said] = {}

    def view(self, view: int) -> Said:
        """All training clips of one view through the teacher."""
        if view not in self._open:
            folder = self.folder / f"view{view}"
            said = self._kept(folder)
            if said is None:
                self._ask(folder, view)
                said = self._kept(folder)
            if said is None:
                raise UserError(
                    f"the teacher's answers in {folder} cannot be read back; delete that folder and run again"
                )
            self._open[view] = said
        return self._open[view]

    def _kept(self, folder: Path) -> Said | None:
        """What was answered before; None where nothing was, or what is there is damaged: it is asked for again."""
        try:
            said = Said(_map(folder / "logits.npy"), [_map(f) for f in sorted(folder.glob("features*.npy"))])
        except (OSError, ValueError, EOFError):
            return None
        return said if {len(array) for array in (said.logits, *said.features)} == {self.count} else None

    @torch.no_grad()
    def _ask(self, folder: Path, view: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        device = next(self.network.parameters(), torch.zeros(())).device  # an ONNX file has none
        parts: list[Staged] = []
        for first in range(0, self.count, _BATCH):
            index = np.arange(first, min(first + _BATCH, self.count))
            said = self.network(self.view_of(index, view).to(device))
            parts.append(Staged(said.features, said.logits))  # never the maps
        for k in range(len(parts[0].features)):
            _save(folder / f"features{k}.npy", torch.cat([p.features[k] for p in parts]), self.dtype)
        # Last: marks the view as whole.
        _save(folder / "logits.npy", torch.cat([p.logits for p in parts if p.logits is not None]), self.dtype)


def _save(path: Path, values: Tensor, dtype: type[np.floating]) -> None:
    most = np.finfo(dtype).max
    buffer = BytesIO()
    np.save(buffer, values.float().cpu().numpy().clip(-most, most).astype(dtype, copy=False))
    write_atomic(path, buffer.getvalue())


def _map(path: Path) -> Stored:
    array: Stored = np.load(path, mmap_mode="r")
    return array


def _softmax(stored: Stored) -> NDArray[np.float32]:
    logits = stored.astype(np.float32)
    e = np.exp(logits - logits.max(1, keepdims=True))
    p: NDArray[np.float32] = e / e.sum(1, keepdims=True)
    return p
