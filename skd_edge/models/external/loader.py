"""A teacher made elsewhere, as a recipe names it: made, cut, its classes matched with the data's, its bytes named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_edge.models.external import factory
from skd_edge.models.external.adapter import Adapter
from skd_edge.models.external.adapter_spec import AdapterSpec, ExternalNetwork, match_class_columns
from skd_edge.recipe.networks import SingleTeacher
from skd_edge.recipe.sections import ClipSettings


def build_external(teacher: SingleTeacher, *, classes: int | None, clip: ClipSettings, seed: int) -> ExternalNetwork:
    """The network itself, its ready spec, and its class names where it knows them.

    Args:
        teacher: a teacher with a source, but ``logits`` and ``ensemble``.
        classes: how many a network that is to learn here must tell apart; None: not known yet.
        clip: the clips that come in.
        seed: what first weights are drawn from.

    Raises:
        ImportError: The library that it comes from is not installed.
        UserError: See the makers.
    """
    if teacher.hub:
        from skd_edge.models.external.huggingface import load_hub_network

        return load_hub_network(teacher, classes, seed)
    if teacher.torchvision or teacher.timm:
        from skd_edge.models.external.torchvision_timm import build_timm_network, build_torchvision_network

        if teacher.torchvision:
            return build_torchvision_network(teacher, classes, seed)
        return build_timm_network(teacher, classes, _resolve_clip_settings(teacher, AdapterSpec(()), clip).frames, seed)
    if teacher.onnx:
        from skd_edge.models.external.onnx_network import load_onnx_network

        return load_onnx_network(teacher)
    return ExternalNetwork(factory.build_from_factory(teacher, seed), AdapterSpec(teacher.substages))


def adapt_external(
    teacher: SingleTeacher, *, classes: int | None, clip: ClipSettings, seed: int, names: Sequence[str] = ()
) -> Adapter:
    """The network of a teacher made elsewhere, cut into substages.

    Args:
        teacher: as for ``make``; a factory must be permitted (factory.py).
        classes: how many the data has; None: not known yet, any number will do.
        clip: the clips that come in.
        seed: what its first weights are drawn from.
        names: the data's classes, where the teacher comes trained and has a list of its own.

    Raises:
        ImportError: See ``make``.
        UserError: See ``make`` and ``Adapter``; or its classes are not the data's.
    """
    external = build_external(teacher, classes=classes, clip=clip, seed=seed)
    spec = external.spec
    substages = (
        spec.substages if teacher.onnx else teacher.substages or spec.substages
    )  # onnx: names of tensors, tapped
    network = Adapter(
        external.network,
        substages,
        clip=clip,
        expected_clip=_resolve_clip_settings(teacher, spec, clip),
        input_layout=teacher.input or spec.input_layout,
        layout=teacher.layout or spec.layout,
        tubelet=teacher.tubelet or spec.tubelet,
    )
    theirs = teacher.classes or (() if teacher.is_trained_here else external.classes)
    if theirs and len(theirs) != network.classes:
        raise UserError(
            f"the teacher gives {network.classes} logits and its class list has {len(theirs)} names; "
            "teacher.classes must name each, in their order"
        )
    if theirs and names:
        network.select_classes(match_class_columns(theirs, names))
    elif not theirs and classes is not None and network.classes != classes:
        raise UserError(
            f"the teacher of {teacher.factory or teacher.source} tells {network.classes} classes apart and the data "
            f"has {classes}; "
            + (
                "give the right number in teacher.arguments, with the classes in the order of their names"
                if teacher.factory
                else "name its logits with teacher.classes, so that they are matched by name"
            )
        )
    return network


def weights_fingerprint(teacher: SingleTeacher) -> str | None:
    """Names what a teacher's files hold, byte by byte; None where it has none (of a factory: see factory.py).

    Raises:
        UserError: A file cannot be read.
    """
    if teacher.hub:
        from skd_edge.models.external.huggingface import hub_fingerprint

        return hub_fingerprint(teacher)
    if teacher.onnx:
        from skd_edge.models.external.onnx_network import onnx_fingerprint

        return onnx_fingerprint(teacher.onnx)
    if teacher.logits:
        return _hash_file(teacher.logits, "teacher.logits")
    if teacher.pretrained:
        return _hash_file(teacher.pretrained, "teacher.pretrained")
    return None


def unwrap_adapter(network: nn.Module) -> nn.Module:
    """The network inside an adapter, whose names its checkpoints carry; any other network is itself."""
    return network.network if isinstance(network, Adapter) else network


def _hash_file(path: Path, what: str) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror or error}") from error


def _resolve_clip_settings(teacher: SingleTeacher, spec: AdapterSpec, clip: ClipSettings) -> ClipSettings:
    """The clips that a teacher wants: the recipe's, changed by its spec, changed by ``teacher.clip``."""
    changes = spec.clip.model_dump(exclude_none=True)
    changes |= teacher.clip.model_dump(exclude_none=True) if teacher.clip else {}
    return clip.model_copy(update=changes)
