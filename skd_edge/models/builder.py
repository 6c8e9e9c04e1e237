"""A network as a recipe describes it: of the own families, or a teacher made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from skd_edge.models.efficientnet import EfficientNetLite, build_lite
from skd_edge.models.external import loader as elsewhere
from skd_edge.models.external.adapter import Adapter
from skd_edge.models.external.ensemble import Ensemble
from skd_edge.models.external.factory import permit
from skd_edge.models.external.logits_file import read_told
from skd_edge.models.tsm import TSM, build
from skd_edge.models.weights import load_weights
from skd_edge.recipe.networks import Member
from skd_edge.recipe.schema import Clip, Network, Teacher

Built = TSM | EfficientNetLite | Adapter | Ensemble


def admit(teacher: Teacher, *, clip: Clip, seed: int, allow_code: bool) -> None:
    """Permit a teacher's factory, and build the network once: what is wrong with it is said before any clip is read.

    Raises:
        ImportError: The library that it comes from is not installed.
        UsageError: It comes from a factory and ``allow_code`` is False.
        UserError: See ``adapt`` and ``read_told``.
    """
    permit(teacher, allow_code)
    if teacher.logits:
        read_told(teacher.logits, teacher.classes)
    for member in teacher.members:
        if member.source and not member.logits:
            elsewhere.adapt(member, classes=None, clip=clip, seed=seed)


def build_network(network: Network, *, classes: int, clip: Clip, seed: int, names: Sequence[str] = ()) -> Built:
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
        members = [_given(m, classes=classes, clip=clip, seed=seed, names=names) for m in network.ensemble]
        return Ensemble(list(members), network.average)
    if isinstance(network, Member) and network.source:
        return elsewhere.adapt(network, classes=classes, clip=clip, seed=seed, names=names)
    if network.family not in ("resnet", "mobile"):
        return build_lite(network, classes=classes, clip=clip, seed=seed)
    return build(network, classes=classes, frames=clip.frames, size=clip.size, seed=seed)


def _given(member: Member, *, classes: int, clip: Clip, seed: int, names: Sequence[str]) -> Built:
    """A member of an ensemble with its weights."""
    network = build_network(member, classes=classes, clip=clip, seed=seed, names=names)
    if member.checkpoint:
        load_weights(elsewhere.parts_of(network), member.checkpoint, "the ensemble's member that the recipe describes")
    return network
