"""Several trained teachers as one: their logits are averaged, and the features are those of the first one."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from skd_edge.models.substages import SubstageOutput


class Ensemble(nn.Module):
    """The mean of networks with the same classes, as a ``StagedNetwork``.

    Args:
        networks: two or more, each a ``StagedNetwork``.
        average: ``probabilities``: the logits are the logarithm of the mean of the members' softmax outputs;
            ``logits``: the logits are the mean of the members' logits, where a confident member has more influence.

    Attributes:
        widths: channels of the first network's substages.
    """

    def __init__(self, networks: list[nn.Module], average: Literal["probabilities", "logits"]) -> None:
        super().__init__()
        self.networks, self.average = nn.ModuleList(networks), average
        self.widths: tuple[int, ...] = networks[0].widths  # type: ignore[assignment]  # a StagedNetwork's

    def forward(self, clip: Tensor, upto: int | None = None) -> SubstageOutput:
        """Run clips ``(B, 3, T, H, W)``: features of the first network, and the mean of all networks' logits.

        With ``upto``, only the first network runs, and there are no logits.
        """
        first: SubstageOutput = self.networks[0](clip, upto)
        if upto is not None:
            return first
        others = (network(clip).logits for network in self.networks[1:])
        member_logits = torch.stack([first.logits, *others])  # type: ignore[list-item]  # not None without upto
        if self.average == "logits":
            return SubstageOutput(first.features, member_logits.mean(0))
        # The logarithm of the mean probability, computed without leaving the log domain.
        log_mean = torch.logsumexp(member_logits.log_softmax(-1), 0) - math.log(len(member_logits))
        return SubstageOutput(first.features, log_mean)
