"""Networks of torchvision (video models) and of timm (2-D backbones, given a temporal shift), imported when asked for.

No weights are fetched: ``teacher.pretrained`` and ``teacher.checkpoint`` name files.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import sys
from types import ModuleType
from typing import Any

import torch
from torch import nn

from skd_bench.errors import UserError
from skd_edge.models.external.adapter_spec import AdapterSpec, ExternalNetwork, compute_equal_run_ends
from skd_edge.models.temporal import TemporalShift
from skd_edge.models.weights import load_matching_weights
from skd_edge.recipe.networks import DEFAULT_SUBSTAGE_COUNT, SingleTeacher
from skd_edge.recipe.schema import TeacherClip

_KINETICS_CLIP = TeacherClip(mean=(0.43216, 0.394666, 0.37645), std=(0.22803, 0.22145, 0.216989))
_IMAGENET_CLIP = TeacherClip(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_MVIT_CLIP = TeacherClip(
    frames=16, size=224, mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225)
)  # their sizes are fixed
_RESNET_SPEC = AdapterSpec(tuple(f"layer{k}" for k in range(1, 5)), layout="BCTHW", clip=_KINETICS_CLIP)
_SWIN_SPEC = AdapterSpec(tuple(f"features.{k}" for k in (0, 2, 4, 6)), layout="BTHWC", clip=_IMAGENET_CLIP)
_MVIT_SPEC = AdapterSpec(tuple(f"blocks.{k}" for k in (0, 2, 13, 15)), layout="BNC", tubelet=2, clip=_MVIT_CLIP)
_S3D_CLIP = _KINETICS_CLIP.model_copy(update={"frames": 16, "size": 224})  # its last pooling is of a fixed size
_S3D_SPEC = AdapterSpec(tuple(f"features.{k}" for k in (3, 6, 12, 15)), layout="BCTHW", clip=_S3D_CLIP)
TORCHVISION_SPECS: dict[str, AdapterSpec] = {
    "r3d_18": _RESNET_SPEC,
    "mc3_18": _RESNET_SPEC,
    "r2plus1d_18": _RESNET_SPEC,
    "s3d": _S3D_SPEC,
    "swin3d_t": _SWIN_SPEC,
    "swin3d_s": _SWIN_SPEC,
    "swin3d_b": _SWIN_SPEC,
    "mvit_v1_b": _MVIT_SPEC,
    "mvit_v2_s": _MVIT_SPEC,
}
_FIRST_CONV_NAMES = ("conv1", "conv_pw", "conv_dw")  # what the first convolution of a residual block is called
_OPERATOR_LIBRARIES: list[torch.library.Library] = []  # a definition lives as long as the library that made it


def build_torchvision_network(teacher: SingleTeacher, classes: int | None, seed: int) -> ExternalNetwork:
    """A video model of torchvision, its first weights drawn from ``seed`` or read from ``teacher.pretrained``.

    Raises:
        ImportError: torchvision is not installed.
        UserError: It has no video model of that name, or the weights do not fit it.
    """
    assert teacher.torchvision is not None
    _check_known_model("torchvision", teacher.torchvision, list(TORCHVISION_SPECS))
    models = import_torchvision("torchvision.models")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = models.get_model(teacher.torchvision, weights=None, num_classes=_count_outputs(teacher, classes))
    if teacher.pretrained:
        load_matching_weights(network, teacher.pretrained, f"torchvision's {teacher.torchvision}")
    return ExternalNetwork(network, TORCHVISION_SPECS[teacher.torchvision])


def build_timm_network(teacher: SingleTeacher, classes: int | None, frames: int, seed: int) -> ExternalNetwork:
    """A 2-D backbone of timm that sees time by TSM's residual shift before each block's first convolution.

    Raises:
        ImportError: timm or torchvision is not installed.
        UserError: It has no such backbone, or one without blocks that a shift goes into; or the weights do not fit.
    """
    assert teacher.timm is not None
    timm = import_torchvision("timm")
    _check_known_model("timm", teacher.timm, timm.list_models())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model(teacher.timm, pretrained=False, num_classes=_count_outputs(teacher, classes))
    if teacher.pretrained:
        load_matching_weights(network, teacher.pretrained, f"timm's {teacher.timm}")
    if not insert_temporal_shifts(network, frames):
        raise UserError(
            f"teacher.timm {teacher.timm} has no residual blocks that a temporal shift goes into; take a ResNet, "
            "RegNet, MobileNet, EfficientNet or ConvNeXt, or make the network in a teacher.factory"
        )
    default_config = network.default_cfg
    return ExternalNetwork(
        network,
        AdapterSpec(
            _find_timm_stages(network),
            "frames",
            "FCHW",
            clip=TeacherClip(mean=default_config["mean"], std=default_config["std"]),
        ),
    )


def insert_temporal_shifts(network: nn.Module, frames: int) -> int:
    """Put a temporal shift before the first convolution of every residual block; returns how many were found."""
    count = 0
    for block in list(network.modules()):
        first = next((name for name in _FIRST_CONV_NAMES if isinstance(getattr(block, name, None), nn.Module)), None)
        if block is network or first is None:
            continue
        conv: Any = getattr(block, first)
        inner = conv if isinstance(conv, nn.Conv2d) else getattr(conv, "conv", None)
        if isinstance(inner, nn.Conv2d):
            setattr(block, first, nn.Sequential(TemporalShift(inner.in_channels, frames), conv))
            count += 1
    return count


def import_torchvision(name: str) -> ModuleType:
    """A module of torchvision, or one that needs torchvision, also beside a torch that its wheel was not built for.

    Without its compiled part torchvision stops at the names of two operators, which no video model uses: they are
    declared, and nothing stands behind them.

    Raises:
        ImportError: It is not installed.
    """
    with contextlib.suppress(RuntimeError):
        return importlib.import_module(name)
    for stale in [module for module in sys.modules if module.split(".")[0] in ("torchvision", name.split(".")[0])]:
        del sys.modules[stale]
    if not _OPERATOR_LIBRARIES:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            with contextlib.suppress(RuntimeError):  # declared before
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _OPERATOR_LIBRARIES.append(library)
    return importlib.import_module(name)


def _find_timm_stages(network: Any) -> tuple[str, ...]:
    """The modules that end timm's stages: the last four that halve the image, or the ends of equal runs of blocks."""
    feature_info = list(network.feature_info)
    last = list({entry["reduction"]: entry["module"] for entry in feature_info}.values())[-DEFAULT_SUBSTAGE_COUNT:]
    if len(last) == DEFAULT_SUBSTAGE_COUNT:
        return tuple(last)
    return tuple(feature_info[i]["module"] for i in compute_equal_run_ends(len(feature_info), DEFAULT_SUBSTAGE_COUNT))


def _count_outputs(teacher: SingleTeacher, classes: int | None) -> int:
    return len(teacher.classes) or classes or 400


def _check_known_model(library: str, name: str, names: list[str]) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, 8, 0.0)
        raise UserError(
            f"teacher.{library} {name!r} is no network of {library} that is known; there are: "
            f"{', '.join(near)}{' ...' if len(names) > 8 else ''}"
        )
