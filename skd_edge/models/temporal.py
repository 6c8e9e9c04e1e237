"""Temporal operators on folded frames ``(B*T, C, H, W)``. They give a 2-D network information about motion.

A causal operator uses the current and earlier frames only, and zeros in place of the frames before the first one. It
can therefore also process a stream frame by frame: ``step`` takes one frame and a state and returns the output and the
next state. The initial state is all zeros.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from skd_edge.models.batch_norm import BatchNorm

Temporal = Literal["none", "shift", "conv"]


class TemporalShift(nn.Module):
    """Temporal shift (TSM, arXiv 1811.08383).

    One eighth of the channels is taken from the next frame and one eighth from the previous frame. At both ends of the
    clip, where there is no neighbour, the frame's own channels are used. A causal shift takes one eighth from the
    previous frame only (the online TSM of the paper), and zeros for the first frame.

    The code uses slices and one concatenation, because a slice assignment is exported to ONNX as the slow ScatterND.

    Args:
        channels: C of the input.
        frames: T, the frames of a clip.
        causal: whether to use earlier frames only.
    """

    def __init__(self, channels: int, frames: int, causal: bool = False) -> None:
        super().__init__()
        self.frames, self.fold, self.causal = frames, max(channels // 8, 1), causal

    def forward(self, x: Tensor) -> Tensor:
        """Shift the channels of ``(B*T, C, H, W)`` in time; the shape stays the same."""
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
        """Shape of one stream's state (without the batch axis), for frames shaped like ``x (B, C, H, W)``."""
        return self.fold, x.shape[2], x.shape[3]

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Process one frame of each of B streams; for a causal shift.

        Args:
            x: the current frames, ``(B, C, H, W)``.
            state: the shifted channels of the previous frames, ``(B, fold, H, W)``.

        Returns:
            The output ``(B, C, H, W)`` and the next state.
        """
        return torch.cat((state, x[:, self.fold :]), dim=1), x[:, : self.fold]


class TemporalConv(nn.Module):
    """A 3x1x1 convolution, written as ``Conv2d (3, 1)`` on ``(B, C, T, H*W)``.

    It is exported as a 2-D convolution, which every runtime executes fast. With channels_last memory, the reshape to
    ``(B, C, T, H*W)`` copies no data. Norm and activation follow the convolution before the shape is restored, so that
    a runtime can fuse the three. A causal convolution uses the current frame and the two before it.

    Args:
        channels: C of the input and the output.
        frames: T, the frames of a clip.
        depthwise: whether each channel has its own filter.
        activation: applied after the batch norm.
        causal: whether to use earlier frames only.
    """

    def __init__(
        self, channels: int, frames: int, *, depthwise: bool, activation: nn.Module, causal: bool = False
    ) -> None:
        super().__init__()
        self.frames, self.causal = frames, causal
        groups = channels if depthwise else 1
        padding = (0, 0) if causal else (1, 0)
        self.conv = nn.Conv2d(channels, channels, (3, 1), padding=padding, groups=groups, bias=False)
        self.norm = BatchNorm(channels)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(B*T, C, H, W)`` over time; the shape stays the same."""
        c, h, w = x.shape[1:]
        x = x.permute(0, 2, 3, 1).reshape(-1, self.frames, h * w, c).permute(0, 3, 1, 2)
        if self.causal:
            x = nn.functional.pad(x, (0, 0, 2, 0))
        x = self.activation(self.norm(self.conv(x)))
        return x.permute(0, 2, 3, 1).reshape(-1, h, w, c).permute(0, 3, 1, 2)

    def state_shape(self, x: Tensor) -> tuple[int, ...]:
        """Shape of one stream's state (without the batch axis), for frames shaped like ``x (B, C, H, W)``."""
        return x.shape[1], 2, x.shape[2] * x.shape[3]

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Process one frame of each of B streams; for a causal convolution.

        Args:
            x: the current frames, ``(B, C, H, W)``.
            state: the two frames before, ``(B, C, 2, H*W)``.

        Returns:
            The output ``(B, C, H, W)`` and the next state.
        """
        window = torch.cat((state, x.flatten(2).unsqueeze(2)), dim=2)
        return self.activation(self.norm(self.conv(window))).reshape(x.shape), window[:, :, 1:]


class TimeResidual(nn.Module):
    """``x`` plus a depthwise 3x1x1 convolution of ``x``, on folded frames.

    The convolution's weights are zero at the start. It is exported as a 2-D convolution, like ``TemporalConv``.
    """

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.conv = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0), groups=channels, bias=False)
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Add the temporal residual to ``(B*T, C, H, W)``; the shape stays the same."""
        c, h, w = x.shape[1:]
        folded = x.permute(0, 2, 3, 1).reshape(-1, self.frames, h * w, c).permute(0, 3, 1, 2)
        out: Tensor = x + self.conv(folded).permute(0, 2, 3, 1).reshape(-1, h, w, c).permute(0, 3, 1, 2)
        return out
