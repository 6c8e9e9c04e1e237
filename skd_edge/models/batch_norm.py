"""Batch normalisation that is fast for few channels: several pixels are one row of memory.

torch normalises channels_last feature maps pixel by pixel. A pixel of a small network has a few channels, which do not
fill the processor's vectors, so most of the time is overhead: in a training step of a network of 10 channels, batch
normalisation takes as long as the convolutions. Here so many pixels are one row that a row has at least 256 numbers.
Sums are taken for each place in a row, and then for each channel over its places. The result is that of torch, with a
smaller rounding error, because fewer numbers are added one after the other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

_ROW = 256  # numbers
# Elsewhere torch is as fast, or faster.
_MOST_CHANNELS, _LEAST_PIXELS, _VECTOR = 31, 16384, 8


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with its parameters, buffers and results; only training steps on a CPU are faster."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x (N, C, H, W)``."""
        if not (self.training and self.momentum is not None and _is_worthwhile(x)):
            return super().forward(x)
        out: Tensor
        out, mean, variance = _NormaliseRows.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        pixels = x.numel() // x.shape[1]
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (pixels / (pixels - 1)), self.momentum)
            self.num_batches_tracked.add_(1)
        return out


def _is_worthwhile(x: Tensor) -> bool:
    """Whether rows are faster than torch for ``x (N, C, H, W)``; by its device, type, shape and memory format."""
    channels = x.shape[1]
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and channels <= _MOST_CHANNELS
        and channels % _VECTOR > 0
        and x.numel() >= channels * _LEAST_PIXELS
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_exporting()
    )


def _count_pixels_in_row(pixels: int, channels: int) -> int:
    """The power of two that divides ``pixels`` and gives a row of `_ROW` numbers, or as many as possible."""
    count = 1
    while count * channels < _ROW and pixels % (2 * count) == 0:
        count *= 2
    return count


def _to_rows(x: Tensor, row_pixels: int) -> Tensor:
    """``x (N, C, H, W)`` as rows ``(N*H*W / row_pixels, row_pixels * C)``; without a copy if it is channels_last."""
    c = x.shape[1]
    return x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).view(-1, row_pixels * c)


def _repeat(times: int, *values: Tensor) -> Tensor:
    """Each of ``values (C,)``, repeated: ``(len(values), times * C)``."""
    return torch.stack(values)[:, None].expand(-1, times, -1).reshape(len(values), -1)


class _NormaliseRows(Function):
    """Normalised ``(N, C, H, W)``, and mean and biased variance ``(C,)``, which have no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        channels = x.shape[1]
        row_pixels = _count_pixels_in_row(x.numel() // channels, channels)
        rows = _to_rows(x, row_pixels)
        means, variances = torch.batch_norm_update_stats(rows, None, None, 0.0)
        between, mean = torch.var_mean(means.view(row_pixels, channels), 0, correction=0)
        variance = variances.view(row_pixels, channels).mean(0).add_(between)
        inverse = (variance + eps).rsqrt_()
        scale = weight * inverse
        mean_row, inverse_row, scale_row, shift_row = _repeat(row_pixels, mean, inverse, scale, bias - mean * scale)
        out = torch.empty_like(x, memory_format=torch.channels_last)  # no view, so that an activation can be in place
        torch.addcmul(shift_row, rows, scale_row, out=_to_rows(out, row_pixels))
        ctx.save_for_backward(x, mean, inverse, scale, mean_row, inverse_row)
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, mean, inverse, scale, mean_row, inverse_row = ctx.saved_tensors
        n, channels, h, w = x.shape
        row_pixels = mean_row.shape[0] // channels
        rows, gradient_rows = _to_rows(x, row_pixels), _to_rows(gradient, row_pixels)
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient_rows, rows, None, None, None, mean_row, inverse_row, True, 0.0, [False, True, True]
        )
        of_weight, of_bias = torch.stack((of_weight, of_bias)).view(2, row_pixels, channels).sum(1)
        # The gradient of x is scale * gradient + slope * x + offset.
        slope = scale * inverse * of_weight / (-n * h * w)
        offset = scale * of_bias / (-n * h * w) - slope * mean
        scale_row, slope_row, offset_row = _repeat(row_pixels, scale, slope, offset)
        of_rows = torch.addcmul(offset_row, rows, slope_row).addcmul_(gradient_rows, scale_row)
        return of_rows.view(n, h, w, channels).permute(0, 3, 1, 2), of_weight, of_bias, None
