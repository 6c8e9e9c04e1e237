"""How much memory a job needs, and how much this machine has left. Clips are memory-mapped and do not count."""

from __future__ import annotations

import resource
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from skd_bench.errors import UserError
from skd_edge.distill.trainer import build_learner
from skd_edge.execution.job_graph import TrainingJob
from skd_edge.models.catalogue import without_weight_files

_CGROUP = Path("/sys/fs/cgroup")
_BASE_BYTES = 380 << 20  # a process that has imported torch
# Copies of the weights: learner, average, best, two checkpoint states, gradient, two moments of AdamW.
_WEIGHT_COPIES = 8
_TRANSIENT_FACTOR = 1.5  # gradients of activations and workspaces, on top of the stored activations


class MemoryModel:
    """The peak memory of each kind of job: as measured, or else estimated from what its backward pass stores."""

    def __init__(self) -> None:
        self._peaks: dict[tuple[object, ...], int] = {}
        self._estimates: dict[tuple[object, ...], int] = {}

    def add_peak(self, job: TrainingJob, peak_bytes: int) -> None:
        """Take the measured peak of a finished job into account."""
        key = _memory_key(job)
        self._peaks[key] = max(peak_bytes, self._peaks.get(key, 0))

    def estimate_bytes(self, job: TrainingJob) -> int:
        """Bytes that the process of a job needs at most, apart from mapped files."""
        key = _memory_key(job)
        if key in self._peaks:
            return self._peaks[key]
        if key not in self._estimates:
            self._estimates[key] = _estimate_bytes(job)
        return self._estimates[key]


def _memory_key(job: TrainingJob) -> tuple[object, ...]:
    """Jobs with equal keys need about the same memory."""
    training = job.spec.training
    return job.spec.learner.name, bool(job.spec.epochs), bool(job.spec.teacher), training.batch, training.accumulate


def _estimate_bytes(job: TrainingJob) -> int:
    spec = job.spec
    try:
        with torch.device("meta"):
            learner = build_learner(replace(spec, learner=without_weight_files(spec.learner)))
            x = torch.zeros(1, 3, spec.clip.frames, spec.clip.size, spec.clip.size)
            weights = sum(p.nbytes for p in learner.parameters())
            stored = count_stored_bytes(learner, x) if spec.epochs else 0
    except (UserError, RuntimeError, NotImplementedError, TypeError):  # a network from elsewhere that meta cannot run
        return _BASE_BYTES
    micro_batch = -(-spec.training.batch // spec.training.accumulate)
    return int(_BASE_BYTES + _WEIGHT_COPIES * weights + _TRANSIENT_FACTOR * micro_batch * stored)


def count_stored_bytes(learner: torch.nn.Module, x: Tensor) -> int:
    """Bytes of activations that the backward pass of one clip needs."""
    storages: dict[int, torch.UntypedStorage] = {}  # values hold the storages, so that no address is used twice

    def note_storage(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    for parameter in learner.parameters():
        note_storage(parameter)
    before = set(storages)
    with torch.autograd.graph.saved_tensors_hooks(note_storage, lambda tensor: tensor):
        output = learner.train()(x)
    del output
    return sum(storage.nbytes() for key, storage in storages.items() if key not in before)


def read_available_bytes() -> int | None:
    """Bytes that new processes can use without swapping, also under the limit of the control group; None: unknown."""
    found = []
    with suppress(OSError, ValueError):
        found.append(_read_fields(Path("/proc/meminfo"))["MemAvailable"])
    with suppress(OSError, ValueError, KeyError):
        limit = int((_CGROUP / "memory.max").read_text())
        inactive = next(
            int(line.split()[1])
            for line in (_CGROUP / "memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        )
        found.append(limit - int((_CGROUP / "memory.current").read_text()) + inactive)
    return min(found, default=None)


def read_private_bytes(pid: int | None) -> int:
    """Memory of a process now, apart from mapped files; 0 if it has ended."""
    with suppress(OSError, ValueError, KeyError):
        return _read_fields(Path(f"/proc/{pid}/status"))["RssAnon"]
    return 0


def measure_peak_bytes() -> int:
    """The largest memory of this process so far, apart from mapped files."""
    with suppress(OSError, ValueError, KeyError):
        fields = _read_fields(Path("/proc/self/status"))
        return fields["VmHWM"] - fields["RssFile"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _read_fields(file: Path) -> dict[str, int]:
    """The fields of a file of ``/proc`` that are given in kB, as bytes."""
    lines = (line.split() for line in file.read_text().splitlines() if line.endswith(" kB"))
    return {words[0].rstrip(":"): int(words[1]) << 10 for words in lines}
