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


def enable_fake_quant(network: nn.Module, bits: int) -> None:
    """Make every convolution and linear layer of a network round as INT8 does, from now on.

    Args:
        network: Changed in place; its parameters, buffers and their names stay.
        bits: Of the weights: 8, or 7 where the target's sums saturate.
    """
    quant_max = 2 ** (bits - 1) - 1 if bits == 8 else 2 ** (bits - 1)  # as onnxruntime has it: 127, or 64
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.forward = partial(_fake_quant_conv, module, quant_max)  # type: ignore[method-assign]
        elif isinstance(module, nn.Linear):
            module.forward = partial(_fake_quant_linear, module, quant_max)  # type: ignore[method-assign]


def fake_quantize_weight(weight: Tensor, quant_max: int) -> Tensor:
    """``weight (O, ...)`` on a grid of ``-most .. most`` steps for each output channel."""
    scale = weight.detach().abs().flatten(1).amax(1).clamp_min(1e-12) / quant_max
    zero_point = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero_point, 0, -quant_max, quant_max)


def fake_quantize_input(x: Tensor) -> Tensor:
    """``x`` on the 256 steps between its minimum and its maximum; 0 is one of them."""
    low, high = x.detach().amin().clamp_max(0), x.detach().amax().clamp_min(0)
    scale = ((high - low) / 255).clamp_min(1e-12)
    zero_point = (-low / scale).round().clamp(0, 255).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, 255)


def _fake_quant_conv(module: nn.Conv2d, quant_max: int, x: Tensor) -> Tensor:
    out: Tensor = module._conv_forward(
        fake_quantize_input(x), fake_quantize_weight(module.weight, quant_max), module.bias
    )
    return out


def _fake_quant_linear(module: nn.Linear, quant_max: int, x: Tensor) -> Tensor:
    return functional.linear(fake_quantize_input(x), fake_quantize_weight(module.weight, quant_max), module.bias)
