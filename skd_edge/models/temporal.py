"""Temporal operators on folded frames ``(B*T, C, H, W)``: what lets a 2-D network see motion."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Temporal = Literal["none", "shift", "conv"]


class Shift(nn.Module):
    """Temporal shift (TSM, 1811.08383): an eighth of the channels comes from the next frame, an eighth from the last.

    Slices and one concat only (a slice assignment becomes ScatterND); at the ends a frame stands in for its
    missing neighbour.
    """

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        self.frames, self.fold = frames, max(channels // 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B*T, C, H, W)`` to the same shape."""
        c, h, w = x.shape[1:]
        x = x.reshape(-1, self.frames, c, h, w)
        ahead, behind, rest = x[:, :, : self.fold], x[:, :, self.fold : 2 * self.fold], x[:, :, 2 * self.fold :]
        ahead = torch.cat((ahead[:, 1:], ahead[:, -1:]), dim=1)
        behind = torch.cat((behind[:, :1], behind[:, :-1]), dim=1)
        return torch.cat((ahead, behind, rest), dim=2).reshape(-1, c, h, w)


class TemporalConv(nn.Module):
    """A 3x1x1 convolution written as ``Conv2d (3, 1)`` on ``(B, C, T, H*W)``: exports as 2-D, fast everywhere.

    With channels_last memory the fold to ``(B, C, T, H*W)`` moves no bytes. Norm and activation stand beside the
    convolution, inside the fold, so that every runtime can fuse the three.
    """

    def __init__(self, channels: int, frames: int, *, depthwise: bool, activation: nn.Module) -> None:
        super().__init__()
        self.frames = frames
        groups = channels if depthwise else 1
        self.conv = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0), groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """``(B*T, C, H, W)`` to the same shape."""
        c, h, w = x.shape[1:]
        x = x.permute(0, 2, 3, 1).reshape(-1, self.frames, h * w, c).permute(0, 3, 1, 2)
        x = self.activation(self.norm(self.conv(x)))
        return x.permute(0, 2, 3, 1).reshape(-1, h, w, c).permute(0, 3, 1, 2)
