"""External networks as a recipe describes them: they are built, divided into substages, matched by class and hashed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_edge.models.external import factory
from skd_edge.models.external.adapter import Adapter
from skd_edge.models.external.adapter_spec import AdapterSpec, ExternalNetwork, match_class_columns
from skd_edge.models.weights import load_matching_weights
from skd_edge.recipe.networks import NetworkSpec, SingleTeacher, TeacherClip
from skd_edge.recipe.sections import ClipSettings


def build_external(spec: NetworkSpec, *, classes: int | None, clip: ClipSettings, seed: int) -> ExternalNetwork:
    """Build an external network with its default spec and, if they are known, its class names.

    Args:
        spec: a network with a source other than ``logits`` and ``ensemble``.
        classes: number of logits of a network that is trained here; None: not known yet.
        clip: the clips of the recipe.
        seed: for the initial weights.

    Raises:
        ImportError: The library that the network comes from is not installed.
        UsageError: The network comes from a factory that was not allowed to run.
        UserError: The network cannot be built; see ``load_hub_network``, ``build_torchvision_network``,
            ``build_timm_network``, ``load_onnx_network`` and ``build_from_factory``.
    """
    if isinstance(spec, SingleTeacher) and spec.hub:
        from skd_edge.models.external.huggingface import load_hub_network

        return load_hub_network(spec, classes, seed)
    if isinstance(spec, SingleTeacher) and spec.onnx:
        from skd_edge.models.external.onnx_network import load_onnx_network

        return load_onnx_network(spec)
    # A temporal operator needs the number of frames, so it is found here, before the network's own spec exists.
    frames = _resolve_clip_settings(spec, AdapterSpec(()), clip).frames
    if spec.torchvision or spec.timm:
        from skd_edge.models.external.torchvision_timm import build_timm_network, build_torchvision_network

        build = build_torchvision_network if spec.torchvision else build_timm_network
        return build(spec, len(_list_own_classes(spec)) or classes, frames, seed)
    network = factory.build_from_factory(spec, seed)
    if spec.pretrained:
        load_matching_weights(network, spec.pretrained, f"the network of {spec.factory}")
    if spec.substages and spec.temporal == "none":
        return ExternalNetwork(network, AdapterSpec(spec.substages))
    from skd_edge.models.external.torchvision_timm import adapt_frame_network

    return adapt_frame_network(network, spec, frames, TeacherClip())


def adapt_external(
    spec: NetworkSpec, *, classes: int | None, clip: ClipSettings, seed: int, names: Sequence[str] = ()
) -> Adapter:
    """Build an external network as a ``StagedNetwork``.

    Args:
        spec: as for ``build_external``; a factory must have been allowed (``allow_factory_code``).
        classes: number of classes in the dataset; None: not known yet, so any number of logits is accepted.
        clip: the clips of the recipe.
        seed: for the initial weights.
        names: the dataset's class names; they are matched with the class list of a teacher that is already trained.

    Raises:
        ImportError: See ``build_external``.
        UsageError: See ``build_external``.
        UserError: See ``build_external`` and ``Adapter``; or the network's classes do not match those of the dataset.
    """
    with _name_in_messages(spec):
        network, theirs = _build_adapter(spec, classes=classes, clip=clip, seed=seed)
        if theirs and len(theirs) != network.classes:
            raise UserError(
                f"the teacher has {network.classes} logits, but its class list has {len(theirs)} names; "
                "teacher.classes must name every logit, in order"
            )
        if theirs and names:
            network.select_classes(match_class_columns(theirs, names))
        elif not theirs and classes is not None and network.classes != classes:
            is_matched_by_name = not spec.factory and isinstance(spec, SingleTeacher)
            raise UserError(
                f"the teacher of {spec.factory or spec.source} has {network.classes} classes, but the dataset has "
                f"{classes}; "
                + (
                    "name its logits with teacher.classes, so that they can be matched by name"
                    if is_matched_by_name
                    else "give the right number in teacher.arguments; the logits must be in alphabetical order of the "
                    "classes"
                )
            )
    return network


def _build_adapter(
    spec: NetworkSpec, *, classes: int | None, clip: ClipSettings, seed: int
) -> tuple[Adapter, tuple[str, ...]]:
    """The adapted network, and the class names of its logits where they are known."""
    external = build_external(spec, classes=classes, clip=clip, seed=seed)
    found, is_onnx = external.spec, spec.source == "onnx"
    network = Adapter(
        external.network,
        # For an ONNX file `substages` names tensors; the spec names the modules that pass them on.
        found.substages if is_onnx else spec.substages or found.substages,
        clip=clip,
        expected_clip=_resolve_clip_settings(spec, found, clip),
        input_layout=spec.input or found.input_layout,
        layout=spec.layout or found.layout,
        tubelet=spec.tubelet or found.tubelet,
    )
    is_trained_here = not isinstance(spec, SingleTeacher) or spec.is_trained_here
    return network, _list_own_classes(spec) or (() if is_trained_here else external.classes)


def _list_own_classes(spec: NetworkSpec) -> tuple[str, ...]:
    """The class names of its logits that the recipe gives; only a trained teacher has them."""
    return spec.classes if isinstance(spec, SingleTeacher) else ()


@contextmanager
def _name_in_messages(spec: NetworkSpec) -> Iterator[None]:
    """Let messages about a student name it: those of this package speak of the teacher."""
    try:
        yield
    except UserError as error:
        message = str(error)
        if isinstance(spec, SingleTeacher):
            raise
        message = message.replace("the teacher", spec.name).replace("teacher.", f"{spec.name}.")
        raise type(error)(message) from error


def weights_fingerprint(spec: NetworkSpec) -> str | None:
    """Hash of the contents of a network's files; None if it has none (for a factory: ``factory_weights_fingerprint``).

    Raises:
        ImportError: huggingface_hub is not installed, and ``teacher.hub`` is a name on the hub.
        UserError: A file cannot be read.
    """
    if isinstance(spec, SingleTeacher) and spec.hub:
        from skd_edge.models.external.huggingface import hub_fingerprint

        return hub_fingerprint(spec)
    if isinstance(spec, SingleTeacher) and spec.onnx:
        from skd_edge.models.external.onnx_network import onnx_fingerprint

        return onnx_fingerprint(spec.onnx)
    if isinstance(spec, SingleTeacher) and spec.logits:
        return _hash_file(spec.logits, "teacher.logits")
    return _hash_file(spec.pretrained, f"{spec.label}.pretrained") if spec.pretrained else None


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


def _resolve_clip_settings(spec: NetworkSpec, found: AdapterSpec, clip: ClipSettings) -> ClipSettings:
    """The clips that a network needs: the recipe's ``clip``, changed by what was found and then by its own ``clip``."""
    changes = found.clip.model_dump(exclude_none=True)
    changes |= spec.clip.model_dump(exclude_none=True) if spec.clip else {}
    return clip.model_copy(update=changes)
