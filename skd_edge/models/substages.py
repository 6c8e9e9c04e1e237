"""The common interface of all networks: they return pooled features of their substages, and logits.

A substage is one of K consecutive parts of a backbone. Its output (maps of a CNN, tokens of a transformer) is pooled to
one feature vector for each frame, so that teacher and student may differ in architecture and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass
class SubstageOutput:
    """The result of a forward pass.

    Attributes:
        features: one tensor ``(B, T, C_k)`` for each substage that ran, first substage first.
        logits: ``(B, classes)``, or None if the pass stopped before the head.
        last_feature_map: output of the last substage that ran, ``(B*T, C, H, W)``; None for external networks.
    """

    features: list[Tensor]
    logits: Tensor | None
    last_feature_map: Tensor | None = None


def pool_frames(x: Tensor, frames: int) -> Tensor:
    """The mean of each frame's feature map: ``(B*T, C, H, W)`` to ``(B, T, C)``.

    The gradient of ``x`` then has the memory format of ``x``, channels_last. That of ``mean((2, 3))`` has not, and all
    operations that meet both formats are several times slower. Exported, it is ``mean((2, 3))``: one operator.
    """
    c = x.shape[1]
    pooled = x.mean((2, 3)) if torch.compiler.is_exporting() else x.permute(0, 2, 3, 1).flatten(1, 2).mean(1)
    return pooled.reshape(-1, frames, c)


class StagedNetwork(Protocol):
    """A network divided into K substages: of a built-in family, or an adapter around an external network.

    Attributes:
        widths: channels C_k of each substage's features.
    """

    widths: tuple[int, ...]

    def __call__(self, clip: Tensor, upto: int | None = None) -> SubstageOutput:
        """Run ``clip (B, 3, T, H, W)`` through the first ``upto`` substages; None: through all of them and the head."""
        ...


def fold_frames(clip: Tensor, frame_stride: int = 1, shrink_factor: int = 1) -> Tensor:
    """Turn clips ``(B, 3, T, H, W)`` into the input of a 2-D network, folded frames ``(B*T', 3, H', W')``.

    Args:
        clip: the clips.
        frame_stride: every so many frames one is used, from the middle of each group.
        shrink_factor: the image is averaged over squares of so many pixels.
    """
    if frame_stride > 1:
        clip = clip[:, :, frame_stride // 2 :: frame_stride]
    x = clip.transpose(1, 2).reshape(-1, clip.shape[1], clip.shape[3], clip.shape[4])
    if shrink_factor > 1:
        x = nn.functional.avg_pool2d(x, shrink_factor)
    return x if torch.compiler.is_exporting() else x.contiguous(memory_format=torch.channels_last)


class LogitsOnly(nn.Module):
    """The form in which a network is exported: ``clip (B, 3, T, H, W)`` in, ``logits (B, classes)`` out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clip: Tensor) -> Tensor:
        """Logits ``(B, classes)`` of normalised clips ``(B, 3, T, H, W)``."""
        logits = self.network(clip).logits
        assert isinstance(logits, Tensor)
        return logits
