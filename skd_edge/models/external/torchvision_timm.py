"""Video models of torchvision, and 2-D backbones of timm with a temporal shift; both are imported only when needed.

No weights are downloaded: ``teacher.pretrained`` and ``teacher.checkpoint`` name files.
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
# The position embeddings of MViT fix the number of frames and the size.
_MVIT_CLIP = TeacherClip(frames=16, size=224, mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))
_RESNET_SPEC = AdapterSpec(tuple(f"layer{k}" for k in range(1, 5)), layout="BCTHW", clip=_KINETICS_CLIP)
_SWIN_SPEC = AdapterSpec(tuple(f"features.{k}" for k in (0, 2, 4, 6)), layout="BTHWC", clip=_IMAGENET_CLIP)
_MVIT_SPEC = AdapterSpec(tuple(f"blocks.{k}" for k in (0, 2, 13, 15)), layout="BNC", tubelet=2, clip=_MVIT_CLIP)
_S3D_CLIP = _KINETICS_CLIP.model_copy(update={"frames": 16, "size": 224})  # the last pooling has a fixed size
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
_FIRST_CONV_NAMES = ("conv1", "conv_pw", "conv_dw")  # of the first convolution in a residual block
_OPERATOR_LIBRARIES: list[torch.library.Library] = []  # keeps the libraries alive: without them the operators vanish


def build_torchvision_network(teacher: SingleTeacher, classes: int | None, seed: int) -> ExternalNetwork:
    """Build a video model of torchvision.

    Args:
        teacher: a teacher with ``torchvision``; weights in ``teacher.pretrained`` replace the initial ones.
        classes: number of classes in the dataset; None: not known yet. ``teacher.classes`` goes first.
        seed: for the initial weights (the caller's random state is not changed).

    Raises:
        ImportError: torchvision is not installed.
        UserError: The model is not known, or the pretrained weights do not fit it.
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
    """Build a 2-D backbone of timm with the residual shift of TSM before the first convolution of each block.

    Args:
        teacher: a teacher with ``timm``; weights in ``teacher.pretrained`` replace the initial ones.
        classes: number of classes in the dataset; None: not known yet. ``teacher.classes`` goes first.
        frames: T, the frames that the network gets.
        seed: for the initial weights (the caller's random state is not changed).

    Raises:
        ImportError: timm or torchvision is not installed.
        UserError: The backbone is not known or has no blocks for a shift, or the pretrained weights do not fit it.
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
            f"teacher.timm {teacher.timm} has no residual blocks where a temporal shift can be inserted; choose a "
            "ResNet, RegNet, MobileNet, EfficientNet or ConvNeXt, or build the network in a teacher.factory"
        )
    clip = TeacherClip(mean=network.default_cfg["mean"], std=network.default_cfg["std"])
    return ExternalNetwork(network, AdapterSpec(_find_timm_stages(network), "frames", "FCHW", clip=clip))


def insert_temporal_shifts(network: nn.Module, frames: int) -> int:
    """Insert a temporal shift before the first convolution of every residual block.

    Args:
        network: is changed in place.
        frames: T, the frames that the network gets.

    Returns:
        Number of blocks that were changed.
    """
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
    """Import torchvision, or a module that needs it, even if its wheel was built for another torch.

    Such a torchvision cannot load its compiled part. Its import then fails because two operators, which no video model
    uses, are not defined. They are declared here without an implementation, and the import is tried again.

    Args:
        name: the module to import.

    Raises:
        ImportError: The module is not installed.
    """
    with contextlib.suppress(RuntimeError):
        return importlib.import_module(name)
    for stale in [module for module in sys.modules if module.split(".")[0] in ("torchvision", name.split(".")[0])]:
        del sys.modules[stale]
    if not _OPERATOR_LIBRARIES:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            with contextlib.suppress(RuntimeError):  # it is already declared
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _OPERATOR_LIBRARIES.append(library)
    return importlib.import_module(name)


def _find_timm_stages(network: Any) -> tuple[str, ...]:
    """The modules that end the substages: the last four that halve the image, or the ends of four equal runs."""
    feature_info = list(network.feature_info)
    last = list({entry["reduction"]: entry["module"] for entry in feature_info}.values())[-DEFAULT_SUBSTAGE_COUNT:]
    if len(last) == DEFAULT_SUBSTAGE_COUNT:
        return tuple(last)
    return tuple(feature_info[i]["module"] for i in compute_equal_run_ends(len(feature_info), DEFAULT_SUBSTAGE_COUNT))


def _count_outputs(teacher: SingleTeacher, classes: int | None) -> int:
    """Number of logits; 400 (the classes of Kinetics) while it is not known."""
    return len(teacher.classes) or classes or 400


def _check_known_model(library: str, name: str, names: list[str]) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, 8, 0.0)
        raise UserError(
            f"teacher.{library} {name!r} is not a known network of {library}; choose from: "
            f"{', '.join(near)}{' ...' if len(names) > 8 else ''}"
        )
