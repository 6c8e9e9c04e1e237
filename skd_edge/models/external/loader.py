"""External teachers as a recipe describes them: they are built, divided into substages, matched by class and hashed."""

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
    """Build an external network with its default spec and, if they are known, its class names.

    Args:
        teacher: a teacher with a source other than ``logits`` and ``ensemble``.
        classes: number of logits of a network that is trained here; None: not known yet.
        clip: the clips of the recipe.
        seed: for the initial weights.

    Raises:
        ImportError: The library that the network comes from is not installed.
        UsageError: The network comes from a factory that was not allowed to run.
        UserError: The network cannot be built; see ``load_hub_network``, ``build_torchvision_network``,
            ``build_timm_network``, ``load_onnx_network`` and ``build_from_factory``.
    """
    if teacher.hub:
        from skd_edge.models.external.huggingface import load_hub_network

        return load_hub_network(teacher, classes, seed)
    if teacher.torchvision or teacher.timm:
        from skd_edge.models.external.torchvision_timm import build_timm_network, build_torchvision_network

        if teacher.torchvision:
            return build_torchvision_network(teacher, classes, seed)
        # The temporal shift needs the number of frames, so it is found here, before the network's own spec exists.
        frames = _resolve_clip_settings(teacher, AdapterSpec(()), clip).frames
        return build_timm_network(teacher, classes, frames, seed)
    if teacher.onnx:
        from skd_edge.models.external.onnx_network import load_onnx_network

        return load_onnx_network(teacher)
    return ExternalNetwork(factory.build_from_factory(teacher, seed), AdapterSpec(teacher.substages))


def adapt_external(
    teacher: SingleTeacher, *, classes: int | None, clip: ClipSettings, seed: int, names: Sequence[str] = ()
) -> Adapter:
    """Build an external teacher as a ``StagedNetwork``.

    Args:
        teacher: as for ``build_external``; a factory must have been allowed (``allow_factory_code``).
        classes: number of classes in the dataset; None: not known yet, so any number of logits is accepted.
        clip: the clips of the recipe.
        seed: for the initial weights.
        names: the dataset's class names; they are matched with the class list of a teacher that is already trained.

    Raises:
        ImportError: See ``build_external``.
        UsageError: See ``build_external``.
        UserError: See ``build_external`` and ``Adapter``; or the teacher's classes do not match those of the dataset.
    """
    external = build_external(teacher, classes=classes, clip=clip, seed=seed)
    spec = external.spec
    # For an ONNX file teacher.substages names tensors; the spec names the modules that pass them on.
    substages = spec.substages if teacher.onnx else teacher.substages or spec.substages
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
            f"the teacher has {network.classes} logits, but its class list has {len(theirs)} names; "
            "teacher.classes must name every logit, in order"
        )
    if theirs and names:
        network.select_classes(match_class_columns(theirs, names))
    elif not theirs and classes is not None and network.classes != classes:
        raise UserError(
            f"the teacher of {teacher.factory or teacher.source} has {network.classes} classes, but the dataset has "
            f"{classes}; "
            + (
                "give the right number in teacher.arguments; the logits must be in alphabetical order of the classes"
                if teacher.factory
                else "name its logits with teacher.classes, so that they can be matched by name"
            )
        )
    return network


def weights_fingerprint(teacher: SingleTeacher) -> str | None:
    """Hash of the contents of a teacher's files; None if it has none (for a factory: ``factory_weights_fingerprint``).

    Raises:
        ImportError: huggingface_hub is not installed, and ``teacher.hub`` is a name on the hub.
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
    """The network inside an adapter; any other network is returned as it is.

    Checkpoints contain the tensor names of the inner network.
    """
    return network.network if isinstance(network, Adapter) else network


def _hash_file(path: Path, what: str) -> str:
    try:
        return sha256_file(path)
    except UserError as error:
        raise UserError(f"{what}: {error}; give a file that can be read") from error


def _resolve_clip_settings(teacher: SingleTeacher, spec: AdapterSpec, clip: ClipSettings) -> ClipSettings:
    """The clips that a teacher needs: the recipe's ``clip``, changed by its spec and then by ``teacher.clip``."""
    changes = spec.clip.model_dump(exclude_none=True)
    changes |= teacher.clip.model_dump(exclude_none=True) if teacher.clip else {}
    return clip.model_copy(update=changes)
