"""What every network of the house returns: pooled features of its substages, and logits.

A substage is one of K consecutive parts of a backbone. Whatever a substage holds (maps of a CNN, tokens of a
transformer), it is seen from outside as one vector a frame, so that teacher and student may differ in kind and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


@dataclass
class SubstageOutput:
    """The result of a forward pass.

    Attributes:
        features: one tensor ``(B, T, C_k)`` for each substage that ran, first substage first.
        logits: ``(B, classes)``, or None where the pass stopped before the head.
        last_feature_map: what the last substage that ran handed on, ``(B*T, C, H, W)``, where the network can go on from it.
    """

    features: list[Tensor]
    logits: Tensor | None
    last_feature_map: Tensor | None = None


class StagedNetwork(Protocol):
    """A network cut into K substages (the own family, or an adapter around anybody's)."""

    widths: tuple[int, ...]

    def __call__(self, clip: Tensor, upto: int | None = None) -> SubstageOutput:
        """Run ``clip (B, 3, T, H, W)`` through the first ``upto`` substages, or all of them and the head."""
        ...


class LogitsOnly(nn.Module):
    """The network as a device sees it: ``clip (B, 3, T, H, W)`` in, ``logits (B, classes)`` out, nothing else."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clip: Tensor) -> Tensor:
        """Logits ``(B, classes)`` of normalised clips ``(B, 3, T, H, W)``."""
        logits = self.network(clip).logits
        assert isinstance(logits, Tensor)
        return logits
