"""Temporal operators on folded frames ``(B*T, C, H, W)``: what lets a 2-D network see motion.

A causal operator looks back alone, and before the first frame it sees zeros. It can therefore also go frame by frame:
``step`` takes one frame and a state, and hands on the next state; all-zero states begin.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Temporal = Literal["none", "shift", "conv"]


class TemporalShift(nn.Module):
    """Temporal shift (TSM, 1811.08383): an eighth of the channels comes from the next frame, an eighth from the last.

    Slices and one concat only (a slice assignment becomes ScatterND); at the ends a frame stands in for its
    missing neighbour. Causal, only an eighth from the last frame (the paper's online TSM).
    """

    def __init__(self, channels: int, frames: int, causal: bool = False) -> None:
        super().__init__()
        self.frames, self.fold, self.causal = frames, max(channels // 8, 1), causal

    def forward(self, x: Tensor) -> Tensor:
        """``(B*T, C, H, W)`` to the same shape."""
        c, h, w = x.shape[1:]
        x = x.reshape(-1, self.frames, c, h, w)
        if self.causal:
            behind, rest = x[:, :, : self.fold], x[:, :, self.fold :]
            behind = torch.cat((torch.zeros_like(behind[:, :1]), behind[:, :-1]), dim=1)
            return torch.cat((behind, rest), dim=2).reshape(-1, c, h, w)
        ahead, behind, rest = x[:, :, : self.fold], x[:, :, self.fold : 2 * self.fold], x[:, :, 2 * self.fold :]
        ahead = torch.cat((ahead[:, 1:], ahead[:, -1:]), dim=1)
        behind = torch.cat((behind[:, :1], behind[:, :-1]), dim=1)
        return torch.cat((ahead, behind, rest), dim=2).reshape(-1, c, h, w)

    def state_shape(self, x: Tensor) -> tuple[int, ...]:
        """Shape of the state of one stream, for frames shaped as ``x (B, C, H, W)``."""
        return self.fold, x.shape[2], x.shape[3]

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One frame ``(B, C, H, W)`` of each stream, and the last one's channels ``(B, fold, H, W)``."""
        return torch.cat((state, x[:, self.fold :]), dim=1), x[:, : self.fold]


class TemporalConv(nn.Module):
    """A 3x1x1 convolution written as ``Conv2d (3, 1)`` on ``(B, C, T, H*W)``: exports as 2-D, fast everywhere.

    With channels_last memory the fold to ``(B, C, T, H*W)`` moves no bytes. Norm and activation stand beside the
    convolution, inside the fold, so that every runtime can fuse the three. Causal, it sees a frame and the two before.
    """

    def __init__(
        self, channels: int, frames: int, *, depthwise: bool, activation: nn.Module, causal: bool = False
    ) -> None:
        super().__init__()
        self.frames, self.causal = frames, causal
        groups = channels if depthwise else 1
        padding = (0, 0) if causal else (1, 0)
        self.conv = nn.Conv2d(channels, channels, (3, 1), padding=padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """``(B*T, C, H, W)`` to the same shape."""
        c, h, w = x.shape[1:]
        x = x.permute(0, 2, 3, 1).reshape(-1, self.frames, h * w, c).permute(0, 3, 1, 2)
        if self.causal:
            x = nn.functional.pad(x, (0, 0, 2, 0))
        x = self.activation(self.norm(self.conv(x)))
        return x.permute(0, 2, 3, 1).reshape(-1, h, w, c).permute(0, 3, 1, 2)

    def state_shape(self, x: Tensor) -> tuple[int, ...]:
        """Shape of the state of one stream, for frames shaped as ``x (B, C, H, W)``."""
        return x.shape[1], 2, x.shape[2] * x.shape[3]

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One frame ``(B, C, H, W)`` of each stream, and the two before ``(B, C, 2, H*W)``."""
        window = torch.cat((state, x.flatten(2).unsqueeze(2)), dim=2)
        return self.activation(self.norm(self.conv(window))).reshape(x.shape), window[:, :, 1:]
