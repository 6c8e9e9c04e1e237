"""The built-in families ``resnet`` and ``mobile``: 2-D convolutions plus a temporal operator, in K substages."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skd_edge.models.batch_norm import BatchNorm
from skd_edge.models.substages import SubstageOutput, fold_frames, pool_frames
from skd_edge.models.temporal import Temporal, TemporalConv, TemporalShift
from skd_edge.recipe.schema import NetworkSpec


def _conv_bn(cin: int, cout: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False),
        BatchNorm(cout),
    ]


class BasicBlock(nn.Module):
    """The basic block of ResNet, with a temporal operator.

    A shift comes before the first 3x3 convolution, a temporal convolution after the second.
    """

    def __init__(self, cin: int, cout: int, stride: int, frames: int, temporal: Temporal, causal: bool = False) -> None:
        super().__init__()
        self.before = TemporalShift(cin, frames, causal) if temporal == "shift" else nn.Identity()
        self.body = nn.Sequential(
            *_conv_bn(cin, cout, 3, stride=stride), nn.ReLU(inplace=True), *_conv_bn(cout, cout, 3)
        )
        self.skip = (
            nn.Sequential(*_conv_bn(cin, cout, 1, stride=stride)) if cin != cout or stride > 1 else nn.Identity()
        )
        self.time = (
            nn.Sequential(
                nn.ReLU(inplace=True),
                TemporalConv(cout, frames, depthwise=False, activation=nn.Identity(), causal=causal),
            )
            if temporal == "conv"
            else nn.Identity()
        )
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B*T, C, H, W)`` to ``(B*T, C', H/stride, W/stride)``."""
        out: Tensor = self.act(self.time(self.body(self.before(x))) + self.skip(x))
        return out


class InvertedResidual(nn.Module):
    """The inverted residual of MobileNetV2 (no squeeze-excite, ReLU6), with a temporal operator.

    A shift comes before the block. A temporal convolution is depthwise and works on the expanded channels.
    """

    def __init__(
        self, cin: int, cout: int, stride: int, frames: int, temporal: Temporal, causal: bool, expand: int
    ) -> None:
        super().__init__()
        wide = cin * expand
        self.before = TemporalShift(cin, frames, causal) if temporal == "shift" else nn.Identity()
        time: list[nn.Module] = []
        if temporal == "conv":
            time = [TemporalConv(wide, frames, depthwise=True, activation=nn.ReLU6(), causal=causal)]
        self.body = nn.Sequential(
            *_conv_bn(cin, wide, 1),
            nn.ReLU6(),
            *_conv_bn(wide, wide, 3, stride=stride, groups=wide),
            nn.ReLU6(),
            *time,
            *_conv_bn(wide, cout, 1),
        )
        self.has_skip = cin == cout and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B*T, C, H, W)`` to ``(B*T, C', H/stride, W/stride)``."""
        out: Tensor = self.body(self.before(x))
        return x + out if self.has_skip else out


class TSM(nn.Module):
    """A 2-D backbone of K substages with a temporal operator, run on all frames at once and averaged over time.

    Substage k (from 0) has ``width * 2**k`` channels. The stem halves the image, every substage after the first halves
    it again, and so does the first substage for images of at least 96 pixels.

    A network may use fewer frames (evenly spaced) and a smaller image than the clip has. It then reduces the clip
    itself, so that all networks of a run take the same input.

    Args:
        network: the recipe's description.
        classes: number of logits.
        frames: T, the frames of a clip.
        size: height and width of a clip, pixels.

    Attributes:
        widths: channels of each substage's features.
        frames: frames that the network uses.
        size: height and width that the network uses, pixels.
        causal: whether it uses no later frames and can be streamed.
    """

    def __init__(self, network: NetworkSpec, *, classes: int, frames: int, size: int) -> None:
        super().__init__()
        self.frame_stride, self.shrink_factor = frames // (network.frames or frames), size // (network.size or size)
        frames, size = frames // self.frame_stride, size // self.shrink_factor
        self.frames, self.classes, self.size, self.causal = frames, classes, size, network.causal
        self.widths = tuple(network.width * 2**k for k in range(len(network.depths)))
        self.stem = nn.Sequential(*_conv_bn(3, network.width, 3, stride=2), nn.ReLU(inplace=True))
        stages, cin = [], network.width
        for k, (width, depth) in enumerate(zip(self.widths, network.depths, strict=True)):
            stride = 2 if k > 0 or size >= 96 else 1
            blocks = []
            for i in range(depth):
                channels, block_stride = (cin if i == 0 else width, width), stride if i == 0 else 1
                args = (*channels, block_stride, frames, network.temporal, network.causal)
                blocks.append(
                    BasicBlock(*args) if network.family == "resnet" else InvertedResidual(*args, network.expand)
                )
            stages.append(nn.Sequential(*blocks))
            cin = width
        self.substages = nn.ModuleList(stages)
        self.head = nn.Linear(cin, classes)

    def forward(self, clip: Tensor, upto: int | None = None) -> SubstageOutput:
        """Run ``clip (B, 3, T, H, W)`` through the first ``upto`` substages; None: through all of them and the head."""
        return self._run_substages(self.stem(fold_frames(clip, self.frame_stride, self.shrink_factor)), 0, upto)

    def resume_after_substage(self, feature_map: Tensor, after: int) -> SubstageOutput:
        """Run the substages after number ``after`` (from 1) on its output ``(B*T, C, H, W)``, up to the logits."""
        return self._run_substages(feature_map, after, None)

    def _run_substages(self, x: Tensor, first: int, upto: int | None) -> SubstageOutput:
        features = []
        for stage in self.substages[first:upto]:
            x = stage(x)
            features.append(pool_frames(x, self.frames))
        logits = self.head(features[-1].mean(1)) if upto is None else None
        return SubstageOutput(features, logits, x)


def build_tsm(network: NetworkSpec, *, classes: int, frames: int, size: int, seed: int) -> TSM:
    """Build a network with weights drawn from ``seed`` (the caller's random state is not changed).

    Args:
        network: the recipe's description; its family is ``resnet`` or ``mobile``.
        classes: number of logits.
        frames: T, the frames of a clip.
        size: height and width of a clip, pixels.
        seed: for the initial weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TSM(network, classes=classes, frames=frames, size=size)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    return model


def count_parameters(model: nn.Module) -> int:
    """Number of parameters of a module, trainable or not; with those of a network that runs outside of PyTorch."""
    outside = sum(getattr(module, "external_weight_count", 0) for module in model.modules())
    return sum(p.numel() for p in model.parameters()) + outside
