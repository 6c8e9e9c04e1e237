"""Quantisation-aware training: the network rounds as its INT8 file will, so that its weights adapt to the rounding.

Weights are rounded symmetrically, with one scale for each output channel. Inputs of convolutions and linear layers are
rounded to uint8 between their own minimum and maximum, which is what calibration measures. Both use torch's fake
quantisation with a straight-through gradient (1712.05877). Batch norms are not folded into the convolutions first:
folding multiplies whole output channels, and a scale for each channel absorbs that. The network's parameters and
buffers do not change, so its weights are exported like any others.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional


def enable_fake_quant(network: nn.Module, bits: int) -> None:
    """Make every convolution and linear layer of a network round its weights and inputs as the INT8 file will.

    Args:
        network: Changed in place. Its parameters and buffers and their names stay the same.
        bits: Bits of the weights: 8, or 7 for targets whose INT8 sums saturate.
    """
    quant_max = 2 ** (bits - 1) - 1 if bits == 8 else 2 ** (bits - 1)  # the limits of onnxruntime: 127, or 64
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.forward = partial(_fake_quant_conv, module, quant_max)  # type: ignore[method-assign]
        elif isinstance(module, nn.Linear):
            module.forward = partial(_fake_quant_linear, module, quant_max)  # type: ignore[method-assign]


def fake_quantize_weight(weight: Tensor, quant_max: int) -> Tensor:
    """``weight (O, ...)``, rounded for each output channel to integers ``-quant_max .. quant_max`` times a scale."""
    scale = weight.detach().abs().flatten(1).amax(1).clamp_min(1e-12) / quant_max
    zero_point = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero_point, 0, -quant_max, quant_max)


def fake_quantize_input(x: Tensor) -> Tensor:
    """``x`` rounded to 256 evenly spaced values from its minimum to its maximum; 0 is always one of them."""
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
