"""A network as a recipe describes it: of the own families, or a teacher made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from skd_edge.models.efficientnet import EfficientNetLite, build_efficientnet_lite
from skd_edge.models.external import loader as elsewhere
from skd_edge.models.external.adapter import Adapter
from skd_edge.models.external.ensemble import Ensemble
from skd_edge.models.external.factory import allow_factory_code
from skd_edge.models.external.logits_file import read_logits_file
from skd_edge.models.tsm import TSM, build_tsm
from skd_edge.models.weights import load_weights
from skd_edge.recipe.networks import SingleTeacher
from skd_edge.recipe.schema import NetworkSpec, Teacher
from skd_edge.recipe.sections import ClipSettings

AnyNetwork = TSM | EfficientNetLite | Adapter | Ensemble


def validate_teacher(teacher: Teacher, *, clip: ClipSettings, seed: int, allow_code: bool) -> None:
    """Permit a teacher's factory, and build the network once: what is wrong with it is said before any clip is read.

    Raises:
        ImportError: The library that it comes from is not installed.
        UsageError: It comes from a factory and ``allow_code`` is False.
        UserError: See ``adapt`` and ``read_told``.
    """
    allow_factory_code(teacher, allow_code)
    if teacher.logits:
        read_logits_file(teacher.logits, teacher.classes)
    for member in teacher.members:
        if member.source and not member.logits:
            elsewhere.adapt_external(member, classes=None, clip=clip, seed=seed)


def build_network(
    network: NetworkSpec, *, classes: int, clip: ClipSettings, seed: int, names: Sequence[str] = ()
) -> AnyNetwork:
    """The network that a recipe describes, its first weights drawn from ``seed`` (or ImageNet's, where it says so).

    Args:
        network: what to build; no file of logits, which is none.
        classes: how many the data has.
        clip: the clips that come in.
        seed: what first weights are drawn from.
        names: the data's classes, for a teacher with a class list of its own.

    Raises:
        ImportError: The library that it comes from is not installed.
        UsageError: It comes from a factory that was not permitted.
        UserError: See ``adapt``.
    """
    if isinstance(network, Teacher) and network.ensemble:
        members = [_build_member(m, classes=classes, clip=clip, seed=seed, names=names) for m in network.ensemble]
        return Ensemble(list(members), network.average)
    if isinstance(network, SingleTeacher) and network.source:
        return elsewhere.adapt_external(network, classes=classes, clip=clip, seed=seed, names=names)
    if network.family not in ("resnet", "mobile"):
        return build_efficientnet_lite(network, classes=classes, clip=clip, seed=seed)
    return build_tsm(network, classes=classes, frames=clip.frames, size=clip.size, seed=seed)


def _build_member(
    member: SingleTeacher, *, classes: int, clip: ClipSettings, seed: int, names: Sequence[str]
) -> AnyNetwork:
    """A member of an ensemble with its weights."""
    network = build_network(member, classes=classes, clip=clip, seed=seed, names=names)
    if member.checkpoint:
        load_weights(
            elsewhere.unwrap_adapter(network), member.checkpoint, "the ensemble's member that the recipe describes"
        )
    return network
