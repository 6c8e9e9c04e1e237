"""Puts a temporal operator into a 2-D network: into the residual branch of each block, before its first convolution.

There the operator does not harm the image features: the shift of TSM (arXiv 1811.08383) leaves the skip connection
unchanged, and the temporal convolution adds nothing at the start, because its weights are zero. Where no block is of a
known kind, an operator comes before each module that ends a substage.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from skd_edge.models.temporal import Temporal, TemporalShift, TimeResidual

# The first convolution of a residual block, in timm and in torchvision's ResNet.
_FIRST_CONV_NAMES = ("conv1", "conv_pw", "conv_dw")
# Blocks whose residual branch is a container; its first layer is meant. These are classes of torchvision.
_BODY_NAMES = {
    "InvertedResidual": ("conv", "block", "branch2"),
    "MBConv": ("block",),
    "CNBlock": ("block",),
    "ResBottleneckBlock": ("f",),
}


class _Place(NamedTuple):
    """A layer before which an operator comes: the module that contains it, its name there, and its input channels."""

    parent: nn.Module
    name: str
    channels: int


def insert_temporal_operators(
    network: nn.Module, frames: int, temporal: Temporal, substages: tuple[str, ...] = ()
) -> int:
    """Insert a temporal operator before the first convolution of every residual block.

    Args:
        network: gets folded frames ``(B*T, 3, H, W)``; it is changed in place. Its tensors get other names, so the
            weights of a file must be loaded before.
        frames: T, the frames of a clip.
        temporal: the operator; ``none`` changes nothing.
        substages: names of the modules that end the substages; an operator comes before each of them if the network has
            no known residual blocks.

    Returns:
        Number of operators.
    """
    if temporal == "none":
        return 0
    places = list(_find_first_convolutions(network)) or list(_find_starts(network, substages))
    for parent, name, channels in places:
        operator = TemporalShift(channels, frames) if temporal == "shift" else TimeResidual(channels, frames)
        parent.add_module(name, nn.Sequential(operator, parent.get_submodule(name)))
    return len(places)


def _find_first_convolutions(network: nn.Module) -> Iterator[_Place]:
    for block in network.modules():
        body = next((n for n in _BODY_NAMES.get(type(block).__name__, ()) if hasattr(block, n)), None)
        parent = block.get_submodule(body) if body else block
        names = [n for n, _ in parent.named_children()][:1] if body else _FIRST_CONV_NAMES
        name = next((n for n in names if isinstance(getattr(parent, n, None), nn.Module)), None)
        if block is network or name is None:
            continue
        layer = parent.get_submodule(name)
        if body or isinstance(layer, nn.Conv2d) or isinstance(getattr(layer, "conv", None), nn.Conv2d):
            yield from _make_place(parent, name)


def _find_starts(network: nn.Module, substages: tuple[str, ...]) -> Iterator[_Place]:
    for substage in substages:
        parent, _, name = substage.rpartition(".")
        yield from _make_place(network.get_submodule(parent), name)


def _make_place(parent: nn.Module, name: str) -> Iterator[_Place]:
    conv = next((m for m in parent.get_submodule(name).modules() if isinstance(m, nn.Conv2d)), None)
    if conv is not None:
        yield _Place(parent, name, conv.in_channels)
