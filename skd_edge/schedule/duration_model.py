"""Estimates how long a job will take, from the jobs that are finished."""

from __future__ import annotations

from collections import defaultdict
from statistics import median

import numpy as np

from skd_edge.execution.job_graph import TrainingJob
from skd_edge.execution.job_results import JobResult
from skd_edge.models.catalogue import describe_network
from skd_edge.recipe.schema import NetworkSpec
from skd_edge.recipe.sections import ClipSettings


class DurationModel:
    """Estimates the seconds of an epoch of each network.

    A network's own finished jobs are used if there are any. Otherwise its epochs are estimated from those of other
    networks and the multiply-accumulates (MACs) of each.

    Args:
        clip: the clips that the networks are trained on.

    Attributes:
        epoch_seconds: seconds per epoch of each finished job, by name of the network.
        networks: the networks with finished jobs whose MACs can be counted, by name.
        macs: MACs for one clip, by name of the network; filled when needed.
    """

    def __init__(self, clip: ClipSettings) -> None:
        self.clip = clip
        self.epoch_seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.networks: dict[str, NetworkSpec] = {}
        self.macs: dict[str, int] = {}

    def add_result(self, result: JobResult) -> None:
        """Take a finished job into account; a job without epochs (a teacher trained elsewhere) is ignored."""
        if result.curve:
            learner = result.job.spec.learner
            self.epoch_seconds[learner.name].append(result.seconds / len(result.curve))
            if learner.source is None:  # others have no family
                self.networks[learner.name] = learner

    def estimate_seconds(self, job: TrainingJob) -> float:
        """Estimated seconds of training ``job``; 0.0 as long as no job is finished.

        Without a finished job of the same network, the seconds per epoch are interpolated over MACs between the
        networks of the same family (other families have other kinds of layers, with another speed). If the family has
        no finished job, all networks are used. For an external network, and if only an external teacher has a finished
        job, the longest epoch so far is used.
        """
        learner = job.spec.learner
        if learner.name in self.epoch_seconds:
            return median(self.epoch_seconds[learner.name]) * job.spec.epochs
        same_family = [n for n in self.networks.values() if n.family == learner.family] or list(self.networks.values())
        if learner.source is not None or not same_family:
            return max(map(median, self.epoch_seconds.values()), default=0.0) * job.spec.epochs
        same_family.sort(key=self._count_macs)
        seconds_per_epoch = [median(self.epoch_seconds[n.name]) for n in same_family]
        return (
            float(np.interp(self._count_macs(learner), [self._count_macs(n) for n in same_family], seconds_per_epoch))
            * job.spec.epochs
        )

    def _count_macs(self, network: NetworkSpec) -> int:
        """MACs for one clip."""
        if network.name not in self.macs:
            self.macs[network.name] = describe_network(network.name, network, self.clip).macs
        return self.macs[network.name]
