"""MobileNetV2, MobileNetV3 and an X3D-XS-like network as built-in families, with a temporal operator.

The tables are those of the papers: MobileNetV2 (arXiv 1801.04381), MobileNetV3 (arXiv 1905.02244), X3D (arXiv
2004.04730). X3D is written in 2-D, so that every runtime has fast kernels for it: a depthwise 3x3x3 convolution becomes
a depthwise 3x3 one and the temporal operator, swish becomes the hard swish, and squeeze-excite works on single frames.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from skd_edge.models.batch_norm import BatchNorm
from skd_edge.models.substages import SubstageOutput, fold_frames, pool_frames
from skd_edge.models.temporal import Temporal, TemporalShift, TimeResidual
from skd_edge.recipe.networks import PUBLISHED_WIDTH
from skd_edge.recipe.schema import NetworkSpec
from skd_edge.recipe.sections import ClipSettings

Activation = Literal["relu", "relu6", "hard-swish"]
_ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6, "hard-swish": nn.Hardswish}
_FULL_STRIDE_SIZE = 96  # pixels: for smaller clips one stride of 2 is left out, as in TSM


class _Block(NamedTuple):
    """One block; ``wide`` and ``out`` are the paper's channels after the expansion and of the output."""

    kernel: int
    wide: int
    out: int
    excite: bool
    activation: Activation
    stride: int


class _Table(NamedTuple):
    """A network: channels of the stem, blocks, channels of the last convolution and of the hidden layer (0: none)."""

    stem: int
    blocks: tuple[_Block, ...]
    last: int
    hidden: int
    activation: Activation


def _list_v2_blocks() -> tuple[_Block, ...]:
    runs = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    blocks: list[_Block] = []
    cin = 32
    for expand, out, repeats, stride in runs:
        for i in range(repeats):
            blocks.append(_Block(3, cin * expand, out, False, "relu6", stride if i == 0 else 1))
            cin = out
    return tuple(blocks)


def _list_x3d_blocks() -> tuple[_Block, ...]:
    return tuple(
        _Block(3, width * 9 // 4, width, i % 2 == 0, "hard-swish", 2 if i == 0 else 1)
        for width, repeats in ((24, 3), (48, 5), (96, 11), (192, 7))
        for i in range(repeats)
    )


_V3_SMALL_BLOCKS = (
    _Block(3, 16, 16, True, "relu", 2),
    _Block(3, 72, 24, False, "relu", 2),
    _Block(3, 88, 24, False, "relu", 1),
    _Block(5, 96, 40, True, "hard-swish", 2),
    _Block(5, 240, 40, True, "hard-swish", 1),
    _Block(5, 240, 40, True, "hard-swish", 1),
    _Block(5, 120, 48, True, "hard-swish", 1),
    _Block(5, 144, 48, True, "hard-swish", 1),
    _Block(5, 288, 96, True, "hard-swish", 2),
    _Block(5, 576, 96, True, "hard-swish", 1),
    _Block(5, 576, 96, True, "hard-swish", 1),
)
_V3_LARGE_BLOCKS = (
    _Block(3, 16, 16, False, "relu", 1),
    _Block(3, 64, 24, False, "relu", 2),
    _Block(3, 72, 24, False, "relu", 1),
    _Block(5, 72, 40, True, "relu", 2),
    _Block(5, 120, 40, True, "relu", 1),
    _Block(5, 120, 40, True, "relu", 1),
    _Block(3, 240, 80, False, "hard-swish", 2),
    _Block(3, 200, 80, False, "hard-swish", 1),
    _Block(3, 184, 80, False, "hard-swish", 1),
    _Block(3, 184, 80, False, "hard-swish", 1),
    _Block(3, 480, 112, True, "hard-swish", 1),
    _Block(3, 672, 112, True, "hard-swish", 1),
    _Block(5, 672, 160, True, "hard-swish", 2),
    _Block(5, 960, 160, True, "hard-swish", 1),
    _Block(5, 960, 160, True, "hard-swish", 1),
)
_TABLES: dict[str, _Table] = {
    "mobilenetv2": _Table(32, _list_v2_blocks(), 1280, 0, "relu6"),
    "mobilenetv3-small": _Table(16, _V3_SMALL_BLOCKS, 576, 1024, "hard-swish"),
    "mobilenetv3-large": _Table(16, _V3_LARGE_BLOCKS, 960, 1280, "hard-swish"),
    "x3d-xs": _Table(24, _list_x3d_blocks(), 432, 2048, "hard-swish"),
}


class SqueezeExcite(nn.Module):
    """Squeeze-excite with a hard sigmoid: each frame's channels are scaled by what the frame's mean says."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = _round_width(channels / 4)
        self.narrow, self.widen = nn.Conv2d(channels, narrow, 1), nn.Conv2d(narrow, channels, 1)
        self.act, self.gate = nn.ReLU(), nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``(B*T, C, H, W)``; the shape stays the same."""
        scale: Tensor = self.gate(self.widen(self.act(self.narrow(x.mean((2, 3), keepdim=True)))))
        return x * scale


class MobileBlock(nn.Module):
    """Inverted residual: 1x1 expansion, depthwise convolution, temporal convolution, squeeze-excite, 1x1 projection.

    The expansion is left out where it adds no channels. A shift comes before the block, inside the residual branch.
    """

    def __init__(self, block: _Block, cin: int, wide: int, cout: int, frames: int, temporal: Temporal) -> None:
        super().__init__()
        act = _ACTIVATIONS[block.activation]
        self.has_skip = cin == cout and block.stride == 1
        self.before = TemporalShift(cin, frames) if temporal == "shift" and self.has_skip else nn.Identity()
        self.expand = nn.Sequential(*_conv_bn(cin, wide, 1), act()) if wide != cin else nn.Identity()
        self.depthwise = nn.Sequential(*_conv_bn(wide, wide, block.kernel, stride=block.stride, groups=wide), act())
        self.time = TimeResidual(wide, frames) if temporal == "conv" else nn.Identity()
        self.excite = SqueezeExcite(wide) if block.excite else nn.Identity()
        self.project = nn.Sequential(*_conv_bn(wide, cout, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B*T, C, H, W)`` to ``(B*T, C', H/stride, W/stride)``."""
        out: Tensor = self.project(self.excite(self.time(self.depthwise(self.expand(self.before(x))))))
        return x + out if self.has_skip else out


class MobileNet(nn.Module):
    """A mobile network in four substages, run on all frames at once and averaged over time; a ``StagedNetwork``.

    The substages end where the next block would halve the map: at strides 4, 8, 16 and 32 (2, 4, 8 and 16 for clips
    below 96 pixels). Like ``TSM``, it can use fewer frames and a smaller image than the clip has.

    Args:
        network: the recipe's description; all channels are those of the paper times ``width / 16``.
        classes: number of logits.
        frames: T, the frames of a clip.
        size: height and width of a clip, pixels.

    Attributes:
        widths: channels of each substage's features.
        frames: frames that the network uses.
    """

    def __init__(self, network: NetworkSpec, *, classes: int, frames: int, size: int) -> None:
        super().__init__()
        self.frame_stride, self.shrink_factor = frames // (network.frames or frames), size // (network.size or size)
        self.frames, self.classes = frames // self.frame_stride, classes
        table, scale = _TABLES[network.family], network.width / PUBLISHED_WIDTH
        published, cin = table.stem, _round_width(table.stem * scale)
        self.stem = nn.Sequential(*_conv_bn(3, cin, 3, stride=2), _ACTIVATIONS[table.activation]())
        stages: list[nn.Module] = []
        widths: list[int] = []
        for stage in _divide_blocks(table.blocks, is_small=size // self.shrink_factor < _FULL_STRIDE_SIZE):
            blocks: list[nn.Module] = []
            for block in stage:
                wide = _round_width(block.wide * scale) if block.wide > published else cin
                cout = _round_width(block.out * scale)
                blocks.append(MobileBlock(block, cin, wide, cout, self.frames, network.temporal))
                published, cin = block.out, cout
            stages.append(nn.Sequential(*blocks))
            widths.append(cin)
        self.substages, self.widths = nn.ModuleList(stages), tuple(widths)
        # As in the papers, the last layers of a narrow MobileNetV2 keep their width; here those of every family do.
        self.last = nn.Sequential(*_conv_bn(cin, table.last, 1), _ACTIVATIONS[table.activation]())
        self.hidden = (
            nn.Sequential(nn.Linear(table.last, table.hidden), _ACTIVATIONS[table.activation]())
            if table.hidden
            else nn.Identity()
        )
        self.head = nn.Linear(table.hidden or table.last, classes)

    def forward(self, clip: Tensor, upto: int | None = None) -> SubstageOutput:
        """Run ``clip (B, 3, T, H, W)`` through the first ``upto`` substages; None: through all of them and the head."""
        x, features = self.stem(fold_frames(clip, self.frame_stride, self.shrink_factor)), []
        for stage in self.substages[:upto]:
            x = stage(x)
            features.append(pool_frames(x, self.frames))
        if upto is not None:
            return SubstageOutput(features, None, x)
        frame_vectors = self.hidden(pool_frames(self.last(x), self.frames).mean(1))
        return SubstageOutput(features, self.head(frame_vectors), x)


def build_mobilenet(network: NetworkSpec, *, classes: int, clip: ClipSettings, seed: int) -> MobileNet:
    """Build a mobile network with weights drawn from ``seed`` (the caller's random state is not changed).

    Args:
        network: the recipe's description; its family is one of ``MOBILE_FAMILIES``.
        classes: number of logits.
        clip: the clips that the network will get.
        seed: for the initial weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MobileNet(network, classes=classes, frames=clip.frames, size=clip.size)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    return model


def _divide_blocks(blocks: tuple[_Block, ...], *, is_small: bool) -> list[tuple[_Block, ...]]:
    """The blocks of each of the four substages; for small clips without the first stride of 2."""
    starts = [i for i, block in enumerate(blocks) if block.stride == 2]
    if is_small:
        first = starts[0]
        blocks = (*blocks[:first], blocks[first]._replace(stride=1), *blocks[first + 1 :])
    return [blocks[a:b] for a, b in pairwise((0, *starts[1:], len(blocks)))]


def _conv_bn(cin: int, cout: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False), BatchNorm(cout)]


def _round_width(width: float) -> int:
    """The multiple of 8 nearest to ``width``, but never more than 10 % below it (the papers' rule)."""
    near = max(8, int(width + 4) // 8 * 8)
    return near + 8 if near < 0.9 * width else near
