"""How long a job will take, as told by the jobs that are finished."""

from __future__ import annotations

from collections import defaultdict
from statistics import median

import numpy as np

from skd_edge.execution.job_graph import TrainingJob
from skd_edge.execution.local_executor import JobResult
from skd_edge.models.catalogue import describe_network
from skd_edge.recipe.schema import NetworkSpec, Teacher
from skd_edge.recipe.sections import ClipSettings


class DurationModel:
    """Seconds of an epoch of each network: its own, once one of its jobs is finished, else by its work.

    Args:
        clip: what the networks are given.
    """

    def __init__(self, clip: ClipSettings) -> None:
        self.clip = clip
        self.epoch_seconds: defaultdict[str, list[float]] = defaultdict(list)  # seconds an epoch, by name
        self.networks: dict[str, NetworkSpec] = {}
        self.macs: dict[str, int] = {}

    def add_result(self, result: JobResult) -> None:
        """Take a finished job into account; one without epochs says nothing."""
        if result.curve:
            learner = result.job.spec.learner
            self.epoch_seconds[learner.name].append(result.seconds / len(result.curve))
            if not isinstance(learner, Teacher) or learner.is_scalable:  # of one made elsewhere, no family is known
                self.networks[learner.name] = learner

    def estimate_seconds(self, job: TrainingJob) -> float:
        """Of training ``job``: 0.0 while nothing is finished.

        A network without a job of its own takes what lies, by multiply-accumulates, between those of its family that
        have one (layers of another kind have another rate); without any of its family, between all that have; where
        only a teacher made elsewhere has one, as long as that.
        """
        learner = job.spec.learner
        if learner.name in self.epoch_seconds:
            return median(self.epoch_seconds[learner.name]) * job.spec.epochs
        same_family = [n for n in self.networks.values() if n.family == learner.family] or list(self.networks.values())
        if not same_family:
            return max(map(median, self.epoch_seconds.values()), default=0.0) * job.spec.epochs
        same_family.sort(key=self._count_macs)
        seconds_per_epoch = [median(self.epoch_seconds[n.name]) for n in same_family]
        return (
            float(np.interp(self._count_macs(learner), [self._count_macs(n) for n in same_family], seconds_per_epoch))
            * job.spec.epochs
        )

    def _count_macs(self, network: NetworkSpec) -> int:
        """Multiply-accumulates of one clip."""
        if network.name not in self.macs:
            self.macs[network.name] = describe_network(network.name, network, self.clip).macs
        return self.macs[network.name]
