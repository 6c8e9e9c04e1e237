"""How fast this device trained networks before, and from that how long other jobs will take; nothing is run.

Every finished job stores its network, its numbers of clips and its seconds. A network of another size is assumed to
train as many multiply-accumulates (MACs) a second as the most similar one of its family.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from skd_bench.errors import UserError
from skd_bench.integrity.checked_files import read_checked_json
from skd_edge.distill.step_profiler import StepTimes
from skd_edge.execution.job_graph import TrainingJob
from skd_edge.models.builder import build_network
from skd_edge.models.catalogue import describe_network
from skd_edge.recipe.schema import NetworkSpec, Teacher
from skd_edge.recipe.sections import ClipSettings

# Training steps of one core of an AMD EPYC, in MACs of the forward pass a second: for devices that trained nothing yet.
_DEFAULT_RATES = {"mobile": 2.0e9, "resnet": 1.2e10}
_DEFAULT_RATE = 1.0e10
_FORWARD_SHARE = 1 / 3  # of a training step: the backward pass takes twice as long as the forward pass


@dataclass(frozen=True)
class RecordedPace:
    """A finished job.

    Attributes:
        learner: the trained network.
        clip: its clips.
        seconds_per_clip: seconds of a training step, divided by its clips.
    """

    learner: NetworkSpec
    clip: ClipSettings
    seconds_per_clip: float


def read_recorded_paces(folders: Iterable[Path], device: str, threads: int) -> list[RecordedPace]:
    """The paces of finished jobs.

    Args:
        folders: folders of jobs: of the cache, and of runs.
        device: name of the CPU; jobs of other devices are ignored.
        threads: threads of a job; jobs with another number are ignored.
    """
    paces = []
    for file in (file for folder in folders for file in sorted(folder.glob("*/job.json"))):
        with suppress(OSError, ValueError, KeyError, TypeError, UserError):  # an older or damaged file
            facts = read_checked_json(file)
            work = facts["work"]
            epochs = len(facts["curve"])
            is_external = (
                "family" not in work["learner"]
            )  # to count its MACs, its library or its code would have to run
            if epochs and not is_external and work["device"] == device and facts["threads"] == threads:
                learner = NetworkSpec.model_validate({"name": "recorded", **work["learner"]})
                # The second half of the epochs is followed by a validation.
                clips = epochs * work["train_clips"] + (epochs - epochs // 2) * work["val_clips"] * _FORWARD_SHARE
                paces.append(RecordedPace(learner, ClipSettings.model_validate(work["clip"]), facts["seconds"] / clips))
    return paces


class PaceModel:
    """Estimates the step times of networks from recorded paces.

    Args:
        paces: of this device; without any, those of an AMD EPYC are assumed.
    """

    def __init__(self, paces: Iterable[RecordedPace]) -> None:
        self._seconds = defaultdict[str, list[float]](list)
        self._recorded: dict[str, RecordedPace] = {}
        for pace in paces:
            key = _network_key(pace.learner, pace.clip)
            self._seconds[key].append(pace.seconds_per_clip)
            self._recorded[key] = pace
        self._macs: dict[str, int] = {}

    @property
    def is_recorded(self) -> bool:
        """Whether this device has trained anything."""
        return bool(self._recorded)

    def estimate_step_times(self, job: TrainingJob) -> StepTimes:
        """The times of a job's steps and of its network's forward pass."""
        seconds = self.estimate_seconds_per_clip(job.spec.learner, job.spec.clip)
        return StepTimes(seconds * job.spec.training.batch if job.spec.epochs else 0.0, _FORWARD_SHARE * seconds)

    def estimate_seconds_per_clip(self, network: NetworkSpec, clip: ClipSettings) -> float:
        """Seconds of a training step, divided by its clips."""
        key = _network_key(network, clip)
        if key in self._seconds:
            return median(self._seconds[key])
        macs = self._count_macs(network, clip)
        rates = {
            self._count_macs(pace.learner, pace.clip): self._count_macs(pace.learner, pace.clip) / median(seconds)
            for pace, seconds in ((self._recorded[k], self._seconds[k]) for k in self._seconds)
            if network.source is None and pace.learner.family == network.family
        }
        if not rates:
            return macs / (_DEFAULT_RATE if network.source else _DEFAULT_RATES.get(network.family, _DEFAULT_RATE))
        return macs / rates[min(rates, key=lambda recorded: abs(math.log(max(recorded, 1) / max(macs, 1))))]

    def _count_macs(self, network: NetworkSpec, clip: ClipSettings) -> int:
        key = _network_key(network, clip)
        if key not in self._macs:
            self._macs[key] = _estimate_macs(network, clip)
        return self._macs[key]


def _estimate_macs(network: NetworkSpec, clip: ClipSettings) -> int:
    """MACs for one clip; 0 for a network that cannot be described, such as a file of logits."""
    if network.is_scalable and network.size is None and network.frames is None:
        return _count_convolution_macs(network, clip)
    if isinstance(network, Teacher) and network.logits is not None:
        return 0
    try:
        return describe_network(network.name, network, clip).macs
    except UserError:
        return 0


def _count_convolution_macs(network: NetworkSpec, clip: ClipSettings) -> int:
    """MACs of the layers of a network of this repository, from one forward pass of a small clip.

    `describe_network` counts exactly, but on the meta device, for which torch imports its compiler: a second or more.
    """
    size, macs = min(clip.size, 64), 0  # of the pass; MACs grow in proportion to the pixels

    def add_layer(layer: nn.Module, inputs: object, output: Tensor) -> None:
        nonlocal macs
        weight = layer.weight
        assert isinstance(weight, Tensor)
        macs += output.numel() * weight.numel() // len(weight)

    described = network.model_copy(update={"start": "seed"})
    model = build_network(described, classes=2, clip=clip, seed=0).eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.Conv1d | nn.Linear):
            layer.register_forward_hook(add_layer)
    with torch.no_grad():
        model(torch.zeros(1, 3, clip.frames, size, size))
    return round(macs * (clip.size / size) ** 2)


def _network_key(network: NetworkSpec, clip: ClipSettings) -> str:
    return json.dumps([network.architecture, clip.model_dump()], sort_keys=True, default=str)
