"""Several trained teachers as one: their answers are averaged, the first one's substages teach."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from skd_edge.models.substages import SubstageOutput


class Ensemble(nn.Module):
    """The mean of networks that know the same classes, as a ``StagedNetwork``.

    Args:
        networks: each as ``StagedNetwork``; two and more.
        average: ``probabilities``: logits are the logarithm of the mean of the softmaxes; ``logits``: their mean, in
            which a sure member outweighs the others.

    Attributes:
        widths: of the first network's substages.
    """

    def __init__(self, networks: list[nn.Module], average: Literal["probabilities", "logits"]) -> None:
        super().__init__()
        self.networks, self.average = nn.ModuleList(networks), average
        self.widths: tuple[int, ...] = networks[0].widths  # type: ignore[assignment]  # a StagedNetwork's

    def forward(self, clip: Tensor, upto: int | None = None) -> SubstageOutput:
        """Features of the first network, and the mean of all logits, of clips ``(B, 3, T, H, W)``."""
        first: SubstageOutput = self.networks[0](clip, upto)
        if upto is not None:
            return first
        member_logits = torch.stack([first.logits, *(network(clip).logits for network in self.networks[1:])])  # type: ignore[list-item]
        if self.average == "logits":
            return SubstageOutput(first.features, member_logits.mean(0))
        return SubstageOutput(
            first.features, torch.logsumexp(member_logits.log_softmax(-1), 0) - math.log(len(member_logits))
        )
