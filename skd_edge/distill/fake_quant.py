"""Quantisation-aware training: a network computes as its INT8 file will, and its weights learn to bear the rounding.

Weights are rounded one scale a channel, symmetric; inputs of convolutions and linear layers to uint8, by their own
minimum and maximum, as calibration finds them. Both are torch's own fake quantisation, whose gradient passes straight
through (1712.05877). Batch norms stay apart: folding one into a convolution scales whole channels, which a scale a
channel does not notice. Nothing is kept in the network, so its weights export as any others.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional


def round_in_forward(network: nn.Module, bits: int) -> None:
    """Make every convolution and linear layer of a network round as INT8 does, from now on.

    Args:
        network: Changed in place; its parameters, buffers and their names stay.
        bits: Of the weights: 8, or 7 where the target's sums saturate.
    """
    most = 2 ** (bits - 1) - 1 if bits == 8 else 2 ** (bits - 1)  # as onnxruntime has it: 127, or 64
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.forward = partial(_convolve, module, most)  # type: ignore[method-assign]
        elif isinstance(module, nn.Linear):
            module.forward = partial(_multiply, module, most)  # type: ignore[method-assign]


def rounded_weight(weight: Tensor, most: int) -> Tensor:
    """``weight (O, ...)`` on a grid of ``-most .. most`` steps for each output channel."""
    scale = weight.detach().abs().flatten(1).amax(1).clamp_min(1e-12) / most
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -most, most)


def rounded_input(x: Tensor) -> Tensor:
    """``x`` on the 256 steps between its minimum and its maximum; 0 is one of them."""
    low, high = x.detach().amin().clamp_max(0), x.detach().amax().clamp_min(0)
    scale = ((high - low) / 255).clamp_min(1e-12)
    zero = (-low / scale).round().clamp(0, 255).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255)


def _convolve(module: nn.Conv2d, most: int, x: Tensor) -> Tensor:
    out: Tensor = module._conv_forward(rounded_input(x), rounded_weight(module.weight, most), module.bias)
    return out


def _multiply(module: nn.Linear, most: int, x: Tensor) -> Tensor:
    return functional.linear(rounded_input(x), rounded_weight(module.weight, most), module.bias)
