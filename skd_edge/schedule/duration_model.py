"""How long a leg will take, as told by the legs that are finished."""

from __future__ import annotations

from collections import defaultdict
from statistics import median

import numpy as np

from skd_edge.execution.job_graph import Node
from skd_edge.execution.local_executor import Finished
from skd_edge.models.catalogue import look
from skd_edge.recipe.schema import Clip, Network, Teacher


class Pace:
    """Seconds of an epoch of each network: its own, once one of its legs is finished, else by its work.

    Args:
        clip: what the networks are given.
    """

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self.seen: defaultdict[str, list[float]] = defaultdict(list)  # seconds an epoch, by name
        self.networks: dict[str, Network] = {}
        self.macs: dict[str, int] = {}

    def learn(self, leg: Finished) -> None:
        """Take a finished leg into account; one without epochs says nothing."""
        if leg.curve:
            learner = leg.node.leg.learner
            self.seen[learner.name].append(leg.seconds / len(leg.curve))
            if not isinstance(learner, Teacher) or learner.scalable:  # of one made elsewhere, no family is known
                self.networks[learner.name] = learner

    def seconds(self, node: Node) -> float:
        """Of training ``node``: 0.0 while nothing is finished.

        A network without a leg of its own takes what lies, by multiply-accumulates, between those of its family that
        have one (layers of another kind have another rate); without any of its family, between all that have; where
        only a teacher made elsewhere has one, as long as that.
        """
        learner = node.leg.learner
        if learner.name in self.seen:
            return median(self.seen[learner.name]) * node.leg.epochs
        like = [n for n in self.networks.values() if n.family == learner.family] or list(self.networks.values())
        if not like:
            return max(map(median, self.seen.values()), default=0.0) * node.leg.epochs
        like.sort(key=self._work)
        paces = [median(self.seen[n.name]) for n in like]
        return float(np.interp(self._work(learner), [self._work(n) for n in like], paces)) * node.leg.epochs

    def _work(self, network: Network) -> int:
        """Multiply-accumulates of one clip."""
        if network.name not in self.macs:
            self.macs[network.name] = look(network.name, network, self.clip).macs
        return self.macs[network.name]
