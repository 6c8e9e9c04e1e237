"""Video models of torchvision, and 2-D networks of torchvision and timm, which get a temporal operator.

Both libraries are imported only when needed. No weights are downloaded: ``pretrained`` and ``checkpoint`` name files.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import sys
from types import ModuleType

import torch
from torch import nn

from skd_bench.errors import UserError
from skd_edge.models.external.adapter_spec import AdapterSpec, ExternalNetwork
from skd_edge.models.external.substage_finder import find_substages
from skd_edge.models.external.temporal_insertion import insert_temporal_operators
from skd_edge.models.weights import load_matching_weights
from skd_edge.recipe.schema import NetworkSpec, TeacherClip

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
_KINETICS_CLASSES = 400  # logits while the number of classes is not known
_OPERATOR_LIBRARIES: list[torch.library.Library] = []  # keeps the libraries alive: without them the operators vanish


def build_torchvision_network(spec: NetworkSpec, classes: int | None, frames: int, seed: int) -> ExternalNetwork:
    """Build a video model of torchvision, or a 2-D one with a temporal operator.

    Args:
        spec: a network with ``torchvision``; weights in ``pretrained`` replace the initial ones.
        classes: number of logits; None: not known yet.
        frames: T, the frames that the network gets.
        seed: for the initial weights (the caller's random state is not changed).

    Raises:
        ImportError: torchvision is not installed.
        UserError: The model is not known, the pretrained weights do not fit it, or it cannot have the operator.
    """
    name = spec.torchvision
    assert name is not None
    models = import_torchvision("torchvision.models")
    _check_known_model(f"{spec.label}.torchvision", name, [*TORCHVISION_SPECS, *models.list_models(module=models)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = models.get_model(name, weights=None, num_classes=classes or _KINETICS_CLASSES)
    if spec.pretrained:
        load_matching_weights(network, spec.pretrained, f"torchvision's {name}")
    if name not in TORCHVISION_SPECS:
        return adapt_frame_network(network, spec, frames, _IMAGENET_CLIP)
    if spec.temporal == "conv":
        raise UserError(
            f"{spec.label}.temporal conv is for 2-D networks, but torchvision's {name} is a video model; remove it"
        )
    return ExternalNetwork(network, TORCHVISION_SPECS[name])


def build_timm_network(spec: NetworkSpec, classes: int | None, frames: int, seed: int) -> ExternalNetwork:
    """Build a 2-D backbone of timm with a temporal operator.

    Args:
        spec: a network with ``timm``; weights in ``pretrained`` replace the initial ones.
        classes: number of logits; None: not known yet.
        frames: T, the frames that the network gets.
        seed: for the initial weights (the caller's random state is not changed).

    Raises:
        ImportError: timm or torchvision is not installed.
        UserError: The backbone is not known, the pretrained weights do not fit it, or it cannot have the operator.
    """
    name = spec.timm
    assert name is not None
    timm = import_torchvision("timm")
    _check_known_model(f"{spec.label}.timm", name, timm.list_models())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model(name, pretrained=False, num_classes=classes or _KINETICS_CLASSES)
    if spec.pretrained:
        load_matching_weights(network, spec.pretrained, f"timm's {name}")
    clip = TeacherClip(mean=network.default_cfg["mean"], std=network.default_cfg["std"])
    return adapt_frame_network(network, spec, frames, clip)


def adapt_frame_network(network: nn.Module, spec: NetworkSpec, frames: int, clip: TeacherClip) -> ExternalNetwork:
    """Divide a network of frames into substages, and put the temporal operator into it.

    Args:
        network: gets frames ``(B*T, 3, H, W)``; it is changed in place.
        spec: says how; without ``substages`` they are found.
        frames: T, the frames that the network gets.
        clip: the clips that the network needs.

    Raises:
        UserError: The substages cannot be found, or there is no place for the operator.
    """
    label, source = spec.label, spec.source
    substages = spec.substages or find_substages(network)
    if not substages:
        raise UserError(
            f"{label}.{source} {getattr(spec, str(source))}: its substages cannot be found, because its maps do not "
            f"shrink in four steps; name the modules that end them in {label}.substages"
        )
    if spec.temporal != "none" and not insert_temporal_operators(network, frames, spec.temporal, substages):
        raise UserError(
            f"{label}.temporal {spec.temporal}: {label}.{source} {getattr(spec, str(source))} has no convolutions "
            f"where it can be put; set {label}.temporal to none, or choose a convolutional network"
        )
    return ExternalNetwork(network, AdapterSpec(substages, "frames", "FCHW", clip=clip))


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


def _check_known_model(setting: str, name: str, names: list[str]) -> None:
    if name not in names:
        library = setting.rpartition(".")[2]
        near = difflib.get_close_matches(name, names, 8, 0.0)
        raise UserError(
            f"{setting} {name!r} is not a known network of {library}; choose from: "
            f"{', '.join(near)}{' ...' if len(names) > 8 else ''}"
        )
